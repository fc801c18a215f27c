//! The Grafana dashboard, as tests read it.

use std::path::Path;

use serde_json::Value;

/// The dashboard.
pub fn dashboard() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("observability/grafana/dashboards/shardkeeper.json");
    serde_json::from_slice(&std::fs::read(path).expect("the dashboard is there")).expect("it is JSON")
}

/// Its panels, without the rows.
pub fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().expect("a list of panels");
    panels.iter().filter(|panel| panel["type"] != "row").collect()
}

/// The queries of its panels and annotations.
pub fn queries(dashboard: &Value) -> Vec<String> {
    let targets = panels(dashboard).into_iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let annotations = dashboard["annotations"]["list"].as_array().into_iter().flatten();
    targets.chain(annotations).filter_map(|asked| asked["expr"].as_str().map(str::to_owned)).collect()
}
