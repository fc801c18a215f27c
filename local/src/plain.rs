//! Tables and items in a line each, for tests: keys are strings, and items are plain JSON.

use serde_json::{Map, Value, json};

use crate::{LocalService, Request};

impl LocalService {
    /// Makes a table whose stream has new and old images. Its key has one attribute or two, which are strings.
    ///
    /// ```
    /// # use shardkeeper_local::LocalService;
    /// # use serde_json::json;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let service = LocalService::start();
    /// service.create_table("Phones", &["Company", "Model"]);
    /// service.put("Phones", &json!({"Company": "Nokia", "Model": "3310", "Size": 84}));
    /// assert_eq!(service.items("Phones").len(), 1);
    /// # }
    /// ```
    ///
    /// # Panics
    /// When the service refuses it: there is such a table, say.
    pub fn create_table(&self, table: &str, key: &[&str]) {
        let attributes: Vec<Value> =
            key.iter().map(|name| json!({"AttributeName": name, "AttributeType": "S"})).collect();
        let kinds = ["HASH", "RANGE"];
        let schema: Vec<Value> =
            key.iter().zip(kinds).map(|(name, kind)| json!({"AttributeName": name, "KeyType": kind})).collect();
        self.ask(
            "CreateTable",
            &json!({
                "TableName": table, "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": attributes, "KeySchema": schema,
                "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"},
            }),
        );
    }

    /// Puts an item, given as plain JSON.
    ///
    /// # Panics
    /// When the service refuses it.
    pub fn put(&self, table: &str, item: &Value) {
        self.ask("PutItem", &json!({"TableName": table, "Item": attributes(item)}));
    }

    /// Deletes an item by its key, given as plain JSON.
    ///
    /// # Panics
    /// When the service refuses it.
    pub fn delete(&self, table: &str, key: &Value) {
        self.ask("DeleteItem", &json!({"TableName": table, "Key": attributes(key)}));
    }

    /// The items of a table that fits into one page of a scan, as plain JSON.
    ///
    /// # Panics
    /// When the service refuses the scan.
    pub fn items(&self, table: &str) -> Vec<Value> {
        let page = self.ask("Scan", &json!({"TableName": table}));
        page["Items"].as_array().into_iter().flatten().map(plain).collect()
    }

    fn ask(&self, operation: &str, body: &Value) -> Value {
        let answer =
            self.handle(&Request { target: format!("DynamoDB_20120810.{operation}"), body: body.to_string().into() });
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 200, "{operation} {body}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }
}

/// The attributes of an item as DynamoDB's JSON has them, from plain JSON: `{"Size": 5}` becomes `{"Size": {"N": "5"}}`.
pub fn attributes(item: &Value) -> Value {
    match item {
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), attribute(value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

fn attribute(value: &Value) -> Value {
    match value {
        Value::Null => json!({"NULL": true}),
        Value::Bool(truth) => json!({"BOOL": truth}),
        Value::Number(number) => json!({"N": number.to_string()}),
        Value::String(text) => json!({"S": text}),
        Value::Array(values) => json!({"L": values.iter().map(attribute).collect::<Vec<_>>()}),
        Value::Object(_) => json!({"M": attributes(value)}),
    }
}

/// The plain JSON of an item. Sets become lists, and bytes their base64.
fn plain(item: &Value) -> Value {
    let members = item.as_object().into_iter().flatten();
    members.map(|(name, value)| (name.clone(), plain_value(value))).collect::<Map<_, _>>().into()
}

fn plain_value(value: &Value) -> Value {
    let Some((kind, content)) = value.as_object().and_then(|value| value.iter().next()) else { return Value::Null };
    match (kind.as_str(), content) {
        ("N", Value::String(digits)) => serde_json::from_str(digits).unwrap_or_else(|_| content.clone()),
        ("NULL", _) => Value::Null,
        ("L", Value::Array(values)) => values.iter().map(plain_value).collect(),
        ("M", _) => plain(content),
        _ => content.clone(),
    }
}
