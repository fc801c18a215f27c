//! Tags of tables, and the descriptions of the account that infrastructure tools ask for.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::emulator::{Emulator, Reply, json_reply};
use crate::error::ServiceError;
use crate::request::Parameters;
use crate::table::Table;
use crate::tables::table_name;

/// The most tags of a table, and the longest keys and values ("Tagging restrictions").
const MAX_TAGS: usize = 50;
const MAX_KEY_CHARS: usize = 128;
const MAX_VALUE_CHARS: usize = 256;

pub(crate) type Tags = BTreeMap<String, String>;

impl Emulator {
    pub(super) fn tag_resource(&mut self, body: &Value) -> Reply {
        let parameters = Parameters::new(body, &["ResourceArn", "Tags"])?;
        parameters.required("Tags")?;
        let tags = read_tags(&parameters)?;
        if tags.is_empty() {
            return Err(invalid("Atleast one Tag needs to be provided as Input."));
        }
        let table = self.tagged_table(&parameters)?;
        let mut all = table.tags.clone();
        all.extend(tags);
        if all.len() > MAX_TAGS {
            return Err(invalid(&format!("Too many tags: a resource has at most {MAX_TAGS}")));
        }
        table.tags = all;
        Ok("".into())
    }

    pub(super) fn untag_resource(&mut self, body: &Value) -> Reply {
        let parameters = Parameters::new(body, &["ResourceArn", "TagKeys"])?;
        parameters.required("TagKeys")?;
        let keys = parameters.list("TagKeys")?.filter(|keys| !keys.is_empty());
        let keys = keys.ok_or_else(|| invalid("Atleast one Tag Key needs to be provided as Input."))?;
        let table = self.tagged_table(&parameters)?;
        for key in keys.iter().filter_map(Value::as_str) {
            table.tags.remove(key);
        }
        Ok("".into())
    }

    pub(super) fn list_tags_of_resource(&mut self, body: &Value) -> Reply {
        let parameters = Parameters::new(body, &["ResourceArn", "NextToken"])?;
        let tags = &self.tagged_table(&parameters)?.tags;
        let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
        json_reply(&json!({"Tags": tags}))
    }

    pub(super) fn describe_limits(&self, body: &Value) -> Reply {
        Parameters::new(body, &[])?;
        json_reply(&json!({
            "AccountMaxReadCapacityUnits": 80_000,
            "AccountMaxWriteCapacityUnits": 80_000,
            "TableMaxReadCapacityUnits": 40_000,
            "TableMaxWriteCapacityUnits": 40_000,
        }))
    }

    pub(super) fn describe_endpoints(&self, body: &Value) -> Reply {
        Parameters::new(body, &[])?;
        json_reply(&json!({"Endpoints": [{"Address": "localhost", "CachePeriodInMinutes": 1440}]}))
    }

    pub(super) fn describe_continuous_backups(&self, body: &Value) -> Reply {
        let name = table_name(&Parameters::new(body, &["TableName"])?)?;
        if !self.tables.contains_key(name) {
            return Err(ServiceError::new("TableNotFoundException", format!("Table not found: {name}")));
        }
        json_reply(&json!({"ContinuousBackupsDescription": {
            "ContinuousBackupsStatus": "ENABLED",
            "PointInTimeRecoveryDescription": {"PointInTimeRecoveryStatus": "DISABLED"},
        }}))
    }

    fn tagged_table(&mut self, parameters: &Parameters<'_>) -> Result<&mut Table, ServiceError> {
        let arn = parameters.required_text("ResourceArn")?;
        let name = arn.strip_prefix("arn:").and_then(|rest| rest.split_once(":table/")).map(|(_, name)| name);
        let Some(name) = name else {
            return Err(ServiceError::validation(format!(
                "Invalid TableArn: Invalid ResourceArn provided as input {arn}"
            )));
        };
        let not_found =
            || ServiceError::not_found(format!("Requested resource not found: ResourcArn: {arn} not found"));
        self.tables.get_mut(name).ok_or_else(not_found)
    }
}

/// `Tags` of a request, which may be missing at a table's creation.
pub(crate) fn read_tags(parameters: &Parameters<'_>) -> Result<Tags, ServiceError> {
    let mut tags = Tags::new();
    let Some(list) = parameters.list("Tags")? else {
        return Ok(tags);
    };
    for tag in list {
        let members = Parameters::new(tag, &["Key", "Value"])?;
        let (key, value) = (members.required_text("Key")?, members.required_text("Value")?);
        if key.is_empty() || key.chars().count() > MAX_KEY_CHARS {
            return Err(invalid(&format!("A tag's key has 1 to {MAX_KEY_CHARS} characters: {key}")));
        }
        if value.chars().count() > MAX_VALUE_CHARS {
            return Err(invalid(&format!("A tag's value has at most {MAX_VALUE_CHARS} characters: {value}")));
        }
        if key.starts_with("aws:") {
            return Err(invalid("Tag keys that begin with 'aws:' are reserved"));
        }
        if tags.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(invalid(&format!("Duplicate tag key: {key}")));
        }
    }
    if tags.len() > MAX_TAGS {
        return Err(invalid(&format!("Too many tags: a resource has at most {MAX_TAGS}")));
    }
    Ok(tags)
}

fn invalid(problem: &str) -> ServiceError {
    ServiceError::validation(format!("One or more parameter values were invalid: {problem}"))
}
