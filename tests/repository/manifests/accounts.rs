//! Tables and roles for an AWS account: the CloudFormation template and the Terraform module give what the policies say.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::overlay::{PYTHON, read};
use crate::in_package;
use crate::support::dynamodb_local::required_in_ci;

const TEMPLATE: &str = "deploy/cloudformation/shardkeeper.yaml";

/// The names of the policies' files, and of their resources in the template.
const POLICIES: [(&str, &str); 4] = [
    ("worker", "WorkerPolicy"),
    ("operator", "OperatorPolicy"),
    ("dead-letters", "DeadLettersPolicy"),
    ("table-creator", "TableCreatorPolicy"),
];

#[test]
fn the_cloudformation_template_is_valid() {
    let Some(python) = required_in_ci(PYTHON) else { return };
    let linter = Path::new(&python).with_file_name("cfn-lint");
    let checked = Command::new(linter).arg(in_package(TEMPLATE)).output().expect("cfn-lint is beside python");
    let said = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_cloudformation_template_makes_the_programs_tables_and_the_policies_to_the_letter() {
    let Some(python) = required_in_ci(PYTHON) else { return };
    let resources = &template(&python)["Resources"];
    let tables =
        [("LeaseTable", vec!["leaseKey"]), ("FleetTable", vec!["key"]), ("DeadLetterTable", vec!["shard", "position"])];
    for (name, keys) in tables {
        let table = &resources[name]["Properties"];
        let schema = keys.iter().zip(["HASH", "RANGE"]);
        let schema: Vec<Value> = schema.map(|(key, kind)| json!({"AttributeName": key, "KeyType": kind})).collect();
        let attributes: Vec<Value> =
            keys.iter().map(|key| json!({"AttributeName": key, "AttributeType": "S"})).collect();
        assert_eq!((&table["KeySchema"], &table["AttributeDefinitions"]), (&json!(schema), &json!(attributes)));
        assert_eq!(resources[name]["DeletionPolicy"], "Retain");
    }
    for (name, suffix) in [("FleetTable", "-Fleet"), ("DeadLetterTable", "-DeadLetters")] {
        let table = json!({"Fn::Sub": format!("${{App}}{suffix}")});
        assert_eq!(resources[name]["Properties"]["TableName"], table);
    }
    for (file, resource) in POLICIES {
        let theirs = in_our_words(&resources[resource]["Properties"]["PolicyDocument"]);
        let ours = policy(file);
        assert_eq!(theirs, ours, "{resource} in {TEMPLATE}");
    }
}

#[test]
fn the_terraform_module_can_be_read_and_takes_the_policies_from_their_files() {
    let Some(python) = required_in_ci(PYTHON) else { return };
    let script = "import hcl2, json, pathlib, sys\n\
                  files = sorted(pathlib.Path(sys.argv[1]).glob('*.tf'))\n\
                  print(json.dumps({file.name: hcl2.loads(file.read_text()) for file in files}))";
    let read = Command::new(&python).args(["-c", script]).arg(in_package("deploy/terraform")).output();
    let read = read.expect("python starts");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let text = String::from_utf8(read.stdout).expect("text");
    for (file, _) in POLICIES {
        assert!(text.contains(&format!("../iam/{file}.json")), "{file}.json is not taken: {text}");
    }
    for key in ["leaseKey", "-Fleet", "-DeadLetters"] {
        assert!(text.contains(key), "{key} is missing: {text}");
    }
}

/// The template's document with its substitutions written as in the policies' files.
fn in_our_words(value: &Value) -> Value {
    match value {
        Value::Object(members) => match members.get("Fn::Sub").and_then(Value::as_str) {
            Some(text) => {
                let names = [
                    ("${AWS::Region}", "${AWS_REGION}"),
                    ("${AWS::AccountId}", "${AWS_ACCOUNT_ID}"),
                    ("${AWS::Partition}", "aws"),
                    ("${Table}", "${TABLE}"),
                    ("${App}", "${APP}"),
                ];
                names.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours)).into()
            }
            None => members.iter().map(|(name, value)| (name.clone(), in_our_words(value))).collect(),
        },
        Value::Array(list) => list.iter().map(in_our_words).collect(),
        other => other.clone(),
    }
}

fn template(python: &OsString) -> Value {
    let text = std::fs::read(in_package(TEMPLATE)).expect("the template");
    read(python, &["--cloudformation"], &text).expect("YAML")
}

fn policy(name: &str) -> Value {
    let text = std::fs::read(in_package(&format!("deploy/iam/{name}.json"))).expect("the policy");
    serde_json::from_slice(&text).expect("JSON")
}
