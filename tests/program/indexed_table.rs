//! A table of production's kind, two global indexes and a local one, by the AWS CLI: the same commands give the same
//! answers on the local service and on DynamoDB Local, and the worker reads the table's stream.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::program::{Program, command, environment};
use crate::support::services::Service;
use crate::walkthrough::tools;

const CREATE: &str = "create-table --table-name Orders --billing-mode PAY_PER_REQUEST \
    --attribute-definitions AttributeName=Customer,AttributeType=S AttributeName=Number,AttributeType=N \
    AttributeName=State,AttributeType=S AttributeName=Date,AttributeType=S AttributeName=Total,AttributeType=N \
    --key-schema AttributeName=Customer,KeyType=HASH AttributeName=Number,KeyType=RANGE \
    --global-secondary-indexes \
    IndexName=ByState,KeySchema=[{AttributeName=State,KeyType=HASH},{AttributeName=Date,KeyType=RANGE}],\
Projection={ProjectionType=ALL} \
    IndexName=ByDate,KeySchema=[{AttributeName=Date,KeyType=HASH}],\
Projection={ProjectionType=INCLUDE,NonKeyAttributes=[Total]} \
    --local-secondary-indexes \
    IndexName=ByTotal,KeySchema=[{AttributeName=Customer,KeyType=HASH},{AttributeName=Total,KeyType=RANGE}],\
Projection={ProjectionType=KEYS_ONLY} \
    --stream-specification StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES";

const COMMANDS: [&str; 12] = [
    r##"put-item --table-name Orders --item {"Customer":{"S":"a"},"Number":{"N":"1"},"State":{"S":"open"},"Date":{"S":"05-01"},"Total":{"N":"30"}}"##,
    r##"put-item --table-name Orders --item {"Customer":{"S":"a"},"Number":{"N":"2"},"State":{"S":"open"},"Date":{"S":"04-30"},"Total":{"N":"7.5"}}"##,
    r##"put-item --table-name Orders --item {"Customer":{"S":"b"},"Number":{"N":"1"},"Date":{"S":"05-01"}}"##,
    r##"query --table-name Orders --index-name ByState --key-condition-expression #s=:s --expression-attribute-names {"#s":"State"} --expression-attribute-values {":s":{"S":"open"}}"##,
    r##"update-item --table-name Orders --key {"Customer":{"S":"a"},"Number":{"N":"1"}} --attribute-updates {"State":{"Value":{"S":"sent"}}} --return-values ALL_NEW"##,
    r##"query --table-name Orders --index-name ByState --key-condition-expression #s=:s --expression-attribute-names {"#s":"State"} --expression-attribute-values {":s":{"S":"sent"}}"##,
    r##"query --table-name Orders --index-name ByDate --key-conditions {"Date":{"ComparisonOperator":"EQ","AttributeValueList":[{"S":"04-30"}]}}"##,
    r##"query --table-name Orders --index-name ByTotal --key-condition-expression Customer=:c --expression-attribute-values {":c":{"S":"a"}} --no-scan-index-forward"##,
    r##"query --table-name Orders --index-name ByTotal --select ALL_ATTRIBUTES --consistent-read --key-condition-expression Customer=:c --expression-attribute-values {":c":{"S":"a"}}"##,
    r##"scan --table-name Orders --index-name ByState --select COUNT"##,
    r##"delete-item --table-name Orders --key {"Customer":{"S":"a"},"Number":{"N":"2"}} --return-values ALL_OLD"##,
    r##"scan --table-name Orders --index-name ByTotal"##,
];

#[test]
fn an_indexed_table_answers_the_aws_cli_as_dynamodb_local_does() {
    let (Some(path), Some(official)) = (tools(), Service::dynamodb_local()) else { return };
    let [ours, theirs] = [Service::shardkeeper_local(""), official].map(|service| {
        let mut variables = environment(&service.url());
        variables.insert("PATH".to_owned(), path.to_string_lossy().into_owned());
        let described = shape(&aws(&variables, CREATE)["TableDescription"]);
        let answers: Vec<Value> = COMMANDS.iter().map(|line| aws(&variables, line)).collect();
        let worker = Program::start(&variables, "run --table Orders --app orders-audit --until-caught-up");
        let ended = worker.end();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        (described, answers, changes(&ended.out))
    });
    assert_eq!(ours.0, theirs.0);
    for ((command, ours), theirs) in COMMANDS.iter().zip(ours.1).zip(theirs.1) {
        assert_eq!(ours, theirs, "{command}");
    }
    assert_eq!(ours.2.values().map(Vec::len).sum::<usize>(), 5, "three puts, an update and a delete: {:?}", ours.2);
    assert_eq!(ours.2, theirs.2);
}

/// The answer of `aws dynamodb` to a line of arguments, split at spaces.
fn aws(variables: &BTreeMap<String, String>, line: &str) -> Value {
    let script = r#"exec aws dynamodb --output json "$@""#;
    let arguments = ["-euc", script, "aws"].into_iter().chain(line.split_whitespace());
    let output = command("bash", variables).args(arguments).output().expect("bash starts");
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    if output.stdout.trim_ascii().is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The part of a table's description that says what was asked for.
fn shape(description: &Value) -> Value {
    let indexes = |member: &str| {
        let list = description[member].as_array().expect("indexes");
        let kept = list.iter().map(|index| json!([index["IndexName"], index["KeySchema"], index["Projection"]]));
        let mut kept: Vec<Value> = kept.collect();
        kept.sort_by_key(Value::to_string);
        kept
    };
    json!([
        description["KeySchema"],
        indexes("GlobalSecondaryIndexes"),
        indexes("LocalSecondaryIndexes"),
        description["StreamSpecification"],
    ])
}

/// The changes of each item, in order.
fn changes(lines: &[String]) -> BTreeMap<String, Vec<Value>> {
    let mut changes: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in lines {
        let record: Value = serde_json::from_str(line).expect("a record");
        let change = &record["dynamodb"];
        let seen = json!([record["eventName"], change["OldImage"], change["NewImage"]]);
        changes.entry(change["Keys"].to_string()).or_default().push(seen);
    }
    changes
}
