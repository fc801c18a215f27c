//! Time to live: items whose time is over are removed by the service itself.

use serde_json::{Value, json};

use crate::emulator::{Emulator, Reply, json_reply};
use crate::error::ServiceError;
use crate::request::Parameters;
use crate::stream::record::WriteSource;
use crate::table::ItemKey;
use crate::tables::table_name;
use crate::timestamp::Timestamp;

/// Times further back than this are taken for something else, and the item stays ("Time to Live": five years).
const OLDEST_EXPIRY_SECS: u64 = 5 * 365 * 24 * 3600;

impl Emulator {
    pub(super) fn describe_time_to_live(&mut self, body: &Value) -> Reply {
        let parameters = Parameters::new(body, &["TableName"])?;
        let table = self.table_for_control(table_name(&parameters)?)?;
        let description = match &table.ttl {
            Some(ttl) => json!({"TimeToLiveStatus": "ENABLED", "AttributeName": ttl.attribute}),
            None => json!({"TimeToLiveStatus": "DISABLED"}),
        };
        json_reply(&json!({"TimeToLiveDescription": description}))
    }

    pub(super) fn update_time_to_live(&mut self, now: Timestamp, body: &Value) -> Reply {
        let parameters = Parameters::new(body, &["TableName", "TimeToLiveSpecification"])?;
        let name = table_name(&parameters)?;
        let specification = parameters.required("TimeToLiveSpecification")?;
        let members = Parameters::new(specification, &["Enabled", "AttributeName"])?;
        members.required("Enabled")?;
        let enabled = members.flag("Enabled")?.unwrap_or(false);
        let attribute = members.required_text("AttributeName")?;
        if !(1..=255).contains(&attribute.len()) {
            let bound = if attribute.is_empty() { "greater than or equal to 1" } else { "less than or equal to 255" };
            return Err(ServiceError::validation(format!(
                "1 validation error detected: Value '{attribute}' at 'timeToLiveSpecification.attributeName' failed to \
                 satisfy constraint: Member must have length {bound}"
            )));
        }
        let current = self.table_for_control(name)?.ttl.as_ref();
        let refusal = match (enabled, current) {
            (true, Some(ttl)) if ttl.attribute == attribute => "TimeToLive is already enabled",
            (_, Some(ttl)) if ttl.attribute != attribute => "TimeToLive is active on a different AttributeName",
            (false, None) => "TimeToLive is already disabled",
            _ => "",
        };
        if !refusal.is_empty() {
            return Err(ServiceError::validation(refusal));
        }
        if let Some(table) = self.tables.get_mut(name) {
            if enabled {
                table.enable_ttl(attribute);
            } else {
                table.ttl = None;
            }
        }
        self.next_ttl_sweep = now;
        self.plan();
        json_reply(&json!({"TimeToLiveSpecification": specification}))
    }

    /// Removes the items whose second is over, if it is time to look again.
    pub(super) fn sweep_expired(&mut self, now: Timestamp) {
        if now < self.next_ttl_sweep {
            return;
        }
        self.next_ttl_sweep = now.plus(self.options.ttl_sweep_interval);
        let newest = now.as_secs();
        let oldest = newest.saturating_sub(OLDEST_EXPIRY_SECS);
        let expired: Vec<(String, ItemKey)> = self
            .tables
            .values()
            .filter_map(|table| Some((&table.name, table.ttl.as_ref()?)))
            .flat_map(|(name, ttl)| {
                ttl.expiries
                    .iter()
                    .take_while(|(second, _)| *second < newest)
                    .filter(|(second, _)| *second >= oldest)
                    .map(|(_, key)| (name.clone(), key.clone()))
            })
            .collect();
        for (table, key) in expired {
            self.replace_item(now, &table, &key, None, WriteSource::Expiry);
        }
    }
}
