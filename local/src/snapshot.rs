//! Snapshots: all tables and streams as lines of JSON, for developers who want their data back after a restart.
//!
//! A file is written beside the old one and takes its place only when it is whole. Its first line tells the format, its
//! last line the number of lines; a file that lacks either is refused.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use bytes::Bytes;
use fastrand::Rng;
use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::index::{IndexProjection, IndexStatus, Scope, SecondaryIndex};
use crate::limits::RateLimit;
use crate::options::LocalOptions;
use crate::stream::lifecycle::Stream;
use crate::stream::record::{StoredRecord, ViewType};
use crate::stream::shard::Shard;
use crate::table::{KeyAttribute, KeySchema, Table, TableSettings};
use crate::timestamp::Timestamp;
use crate::value::{item_from_json, write_item_json};

const FILE: &str = "shardkeeper-local.jsonl";
const FORMAT: &str = "shardkeeper-local 1";

/// Writes a snapshot into the folder, whole or not at all.
pub(crate) fn save(folder: &Path, snapshot: &[u8]) -> io::Result<()> {
    let unfinished = folder.join(format!("{FILE}.unfinished"));
    let mut file = File::create(&unfinished)?;
    file.write_all(snapshot)?;
    file.sync_all()?;
    fs::rename(&unfinished, folder.join(FILE))?;
    // The new name is on the disk once its folder is.
    File::open(folder)?.sync_all()
}

/// The folder's snapshot, or a service without tables where there is none. Creates the folder.
pub(crate) fn load(folder: &Path, options: LocalOptions) -> io::Result<Emulator> {
    fs::create_dir_all(folder)?;
    let file = folder.join(FILE);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Emulator::new(options)),
        Err(error) => return Err(error),
    };
    restore(&text, options).map_err(|problem| {
        let problem = format!("{} is no whole snapshot: {problem}", file.display());
        io::Error::new(io::ErrorKind::InvalidData, problem)
    })
}

impl Emulator {
    /// The lines of a snapshot.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let mut lines = Lines::default();
        lines.push(&json!({"format": FORMAT, "clock": self.clock().as_millis()}));
        for table in self.tables.values() {
            lines.push(&json!({"table": table_to_json(table)}));
            for item in table.items_after(0, u64::MAX, None) {
                lines.push_with(|out| {
                    out.extend_from_slice(b"{\"item\":");
                    write_item_json(item, out);
                    out.push(b'}');
                });
            }
        }
        for stream in self.streams.values() {
            lines.push(&json!({"stream": stream_to_json(stream)}));
            for shard in stream.shards.values() {
                lines.push(&json!({"shard": shard_to_json(shard)}));
                for record in &shard.records {
                    lines.push(&json!({"record": {
                        "sequence": record.sequence.to_string(),
                        "created": record.created.as_millis(),
                        "json": String::from_utf8_lossy(&record.json),
                    }}));
                }
            }
        }
        let count = lines.count;
        lines.push(&json!({"lines": count}));
        lines.out
    }
}

#[derive(Default)]
struct Lines {
    out: Vec<u8>,
    count: u64,
}

impl Lines {
    fn push(&mut self, line: &Value) {
        self.push_with(|out| serde_json::to_writer(out, line).expect("writing to memory cannot fail"));
    }

    fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.out);
        self.out.push(b'\n');
        self.count += 1;
    }
}

fn restore(text: &str, options: LocalOptions) -> Result<Emulator, String> {
    let count = text.lines().count();
    let mut lines = text.lines().enumerate().map(|(index, line)| {
        let line: Value = serde_json::from_str(line).map_err(|error| format!("line {}: {error}", index + 1))?;
        Ok::<_, String>((index + 1, line))
    });
    let (_, head) = lines.next().ok_or("it is empty")??;
    if head["format"] != FORMAT {
        return Err(format!("its format is {}, not {FORMAT:?}", head["format"]));
    }
    let clock = Timestamp::from_millis(head["clock"].as_u64().ok_or("its time is missing")?);
    // The time keeps new ids apart from the old ones, which were drawn from the same seed.
    let random = Rng::with_seed(options.seed ^ clock.as_millis());
    let mut emulator = Emulator::restored(options, clock, random);
    let mut table: Option<(Table, Option<String>)> = None;
    let mut stream: Option<Stream> = None;
    let mut shard_id = String::new();
    for line in lines {
        let (number, line) = line?;
        let damaged = || format!("line {number} is damaged");
        let (kind, content) = line.as_object().and_then(|members| members.iter().next()).ok_or_else(damaged)?;
        match kind.as_str() {
            "table" => {
                keep_table(&mut emulator, table.take());
                table = Some(table_from_json(content).ok_or_else(damaged)?);
            }
            "item" => {
                let (table, _) = table.as_mut().ok_or_else(damaged)?;
                let item = item_from_json(content).map_err(|_| damaged())?;
                let key = table.schema.key_of_item(&item).map_err(|_| damaged())?;
                table.replace(&key, Some(item));
            }
            "stream" => {
                keep_stream(&mut emulator, stream.take());
                stream = Some(stream_from_json(content).ok_or_else(damaged)?);
            }
            "shard" => {
                let shard = shard_from_json(content).ok_or_else(damaged)?;
                shard_id = shard.id.clone();
                stream.as_mut().ok_or_else(damaged)?.add_shard(shard);
            }
            "record" => {
                let shard = stream.as_mut().and_then(|stream| stream.shards.get_mut(&shard_id)).ok_or_else(damaged)?;
                shard.records.push_back(record_from_json(content).ok_or_else(damaged)?);
            }
            "lines" if content.as_u64() == Some(number as u64 - 1) && number == count => {
                keep_table(&mut emulator, table.take());
                keep_stream(&mut emulator, stream.take());
                emulator.plan();
                return Ok(emulator);
            }
            _ => return Err(damaged()),
        }
    }
    Err("its end is missing".to_owned())
}

fn keep_table(emulator: &mut Emulator, table: Option<(Table, Option<String>)>) {
    let Some((mut table, ttl)) = table else {
        return;
    };
    if let Some(attribute) = ttl {
        table.enable_ttl(&attribute);
    }
    emulator.tables.insert(table.name.clone(), table);
}

fn keep_stream(emulator: &mut Emulator, stream: Option<Stream>) {
    if let Some(stream) = stream {
        emulator.streams.insert(stream.arn.clone(), stream);
    }
}

fn table_to_json(table: &Table) -> Value {
    let indexes: Vec<Value> = table.indexes.iter().map(index_to_json).collect();
    json!({
        "name": table.name,
        "id": table.id,
        "schema": schema_to_json(&table.schema),
        "created": table.created.as_millis(),
        "on_demand": table.on_demand,
        "throughput": table.throughput,
        "deletion_protection": table.deletion_protection,
        "latest_stream": table.latest_stream,
        "stream_enabled": table.stream_enabled,
        "ttl": table.ttl.as_ref().map(|ttl| &ttl.attribute),
        "indexes": indexes,
        "tags": table.tags,
    })
}

/// The table, and the attribute by which its items expire.
fn table_from_json(json: &Value) -> Option<(Table, Option<String>)> {
    let indexes = json["indexes"].as_array()?.iter().map(index_from_json).collect::<Option<_>>()?;
    let tags = json["tags"].as_object()?.iter().map(|(key, value)| Some((key.clone(), text(value)?)));
    let mut table = Table::new(TableSettings {
        name: text(&json["name"])?,
        id: text(&json["id"])?,
        schema: schema_from_json(&json["schema"])?,
        created: time(&json["created"])?,
        on_demand: json["on_demand"].as_bool()?,
        throughput: throughput(&json["throughput"])?,
        deletion_protection: json["deletion_protection"].as_bool()?,
        indexes,
        tags: tags.collect::<Option<_>>()?,
    });
    table.latest_stream = text(&json["latest_stream"]);
    table.stream_enabled = json["stream_enabled"].as_bool()?;
    Some((table, text(&json["ttl"])))
}

fn index_to_json(index: &SecondaryIndex) -> Value {
    let included = match &index.projection {
        IndexProjection::All => json!("all"),
        IndexProjection::KeysOnly => json!("keys"),
        IndexProjection::Include(names) => json!(names),
    };
    let (status, settled) = match index.status {
        IndexStatus::Active => ("active", None),
        IndexStatus::Creating(settled) => ("creating", Some(settled.as_millis())),
        IndexStatus::Deleting(settled) => ("deleting", Some(settled.as_millis())),
    };
    json!({
        "name": index.name,
        "is_global": index.scope == Scope::Global,
        "schema": schema_to_json(&index.schema),
        "projection": included,
        "throughput": index.throughput,
        "status": status,
        "settled": settled,
    })
}

fn index_from_json(json: &Value) -> Option<SecondaryIndex> {
    let scope = if json["is_global"].as_bool()? { Scope::Global } else { Scope::Local };
    let projection = match &json["projection"] {
        Value::String(all) if all == "all" => IndexProjection::All,
        Value::String(_) => IndexProjection::KeysOnly,
        names => IndexProjection::Include(names.as_array()?.iter().map(text).collect::<Option<_>>()?),
    };
    let schema = schema_from_json(&json["schema"])?;
    let throughput = throughput(&json["throughput"])?;
    let mut index = SecondaryIndex::new(text(&json["name"])?, scope, schema, projection, throughput);
    index.status = match json["status"].as_str()? {
        "creating" => IndexStatus::Creating(time(&json["settled"])?),
        "deleting" => IndexStatus::Deleting(time(&json["settled"])?),
        _ => IndexStatus::Active,
    };
    Some(index)
}

fn stream_to_json(stream: &Stream) -> Value {
    json!({
        "arn": stream.arn,
        "label": stream.label,
        "table": stream.table,
        "view": stream.view.name(),
        "schema": schema_to_json(&stream.schema),
        "created": stream.created.as_millis(),
        "enabled": stream.enabled,
        "next_sequence": stream.next_sequence.to_string(),
    })
}

fn stream_from_json(json: &Value) -> Option<Stream> {
    Some(Stream {
        arn: text(&json["arn"])?,
        label: text(&json["label"])?,
        table: text(&json["table"])?,
        view: ViewType::parse(json["view"].as_str()?)?,
        schema: schema_from_json(&json["schema"])?,
        created: time(&json["created"])?,
        enabled: json["enabled"].as_bool()?,
        shards: BTreeMap::new(),
        open: BTreeMap::new(),
        next_sequence: sequence(&json["next_sequence"])?,
        next_event: Timestamp::default(),
        descriptions: RateLimit::default(),
    })
}

fn shard_to_json(shard: &Shard) -> Value {
    let (first, last) = shard.range;
    json!({
        "id": shard.id,
        "parent": shard.parent,
        "range": [first, last],
        "created": shard.created.as_millis(),
        "start": shard.start.to_string(),
        "closed": shard.closed.map(|(closed, _)| closed.as_millis()),
        "ending": shard.closed.map(|(_, ending)| ending.to_string()),
        "trimmed_to": shard.trimmed_to.map(|trimmed| trimmed.to_string()),
    })
}

fn shard_from_json(json: &Value) -> Option<Shard> {
    let closed = match &json["closed"] {
        Value::Null => None,
        closed => Some((time(closed)?, sequence(&json["ending"])?)),
    };
    Some(Shard {
        id: text(&json["id"])?,
        parent: text(&json["parent"]),
        range: (json["range"][0].as_u64()?, json["range"][1].as_u64()?),
        created: time(&json["created"])?,
        start: sequence(&json["start"])?,
        closed,
        trimmed_to: sequence(&json["trimmed_to"]),
        ..Shard::default()
    })
}

fn record_from_json(json: &Value) -> Option<StoredRecord> {
    Some(StoredRecord {
        sequence: sequence(&json["sequence"])?,
        created: time(&json["created"])?,
        json: Bytes::from(text(&json["json"])?),
    })
}

fn schema_to_json(schema: &KeySchema) -> Value {
    schema.attributes().map(|attribute| json!([attribute.name, attribute.kind])).collect()
}

fn schema_from_json(json: &Value) -> Option<KeySchema> {
    let attribute = |json: &Value| Some(KeyAttribute { name: text(&json[0])?, kind: text(&json[1])? });
    Some(KeySchema { hash: attribute(&json[0])?, range: attribute(&json[1]) })
}

fn throughput(json: &Value) -> Option<(i64, i64)> {
    Some((json[0].as_i64()?, json[1].as_i64()?))
}

fn text(json: &Value) -> Option<String> {
    json.as_str().map(str::to_owned)
}

fn time(json: &Value) -> Option<Timestamp> {
    json.as_u64().map(Timestamp::from_millis)
}

fn sequence(json: &Value) -> Option<u128> {
    json.as_str()?.parse().ok()
}
