'use strict';
// Reads tables and streams by the API that everybody uses. All of it reaches the document as text, never as markup.
const el = id => document.getElementById(id);
const make = (tag, text, kind) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
const ITEMS = 50, RECORDS = 100;
const chosen = { table: null, shard: null };

async function call(operation, body) {
  const api = ['ListStreams', 'DescribeStream', 'GetShardIterator', 'GetRecords'].includes(operation) ? 'DynamoDBStreams' : 'DynamoDB';
  const headers = { 'content-type': 'application/x-amz-json-1.0', 'x-amz-target': api + '_20120810.' + operation };
  const response = await fetch('.', { method: 'POST', headers, body: JSON.stringify(body), signal: AbortSignal.timeout(15000) });
  const answer = await response.json();
  if (!response.ok) throw new Error(operation + ': ' + (answer.message || answer.Message || answer.__type));
  return answer;
}
// An attribute value in a few characters: {"S": "x"} is x.
function plain(value) {
  if (value === undefined) return '';
  const [[kind, content]] = Object.entries(value);
  if (kind === 'NULL') return 'null';
  if (kind === 'M' || kind === 'L') return JSON.stringify(content);
  return Array.isArray(content) ? '{' + content.join(', ') + '}' : String(content);
}
const image = item => item ? Object.entries(item).map(([name, value]) => name + '=' + plain(value)).join(' ') : '–';
const short = id => id.replace(/^shardId-0*/, '');

function button(text, isChosen, act) {
  const node = make('button', text);
  node.type = 'button';
  node.setAttribute('aria-pressed', isChosen);
  node.addEventListener('click', act);
  return node;
}
// Replaces a list of buttons, and keeps the focus where it is.
function replace(id, nodes) {
  const before = el(id).contains(document.activeElement) ? document.activeElement.textContent : null;
  el(id).replaceChildren(...nodes);
  const again = before === null ? undefined : [...el(id).querySelectorAll('button')].find(node => node.textContent === before);
  if (again) again.focus();
}

async function drawTables() {
  const names = [];
  let start;
  do {
    const answer = await call('ListTables', start ? { ExclusiveStartTableName: start } : {});
    names.push(...answer.TableNames);
    start = answer.LastEvaluatedTableName;
  } while (start);
  if (!names.includes(chosen.table)) { chosen.table = names[0] || null; chosen.shard = null; }
  replace('tables', names.length ? names.map(name => button(name, name === chosen.table, () => { chosen.table = name; chosen.shard = null; draw(); }))
    : [make('p', 'There are no tables yet. Create one with a stream, for example by the AWS CLI.', 'quiet')]);
}
async function drawTable() {
  el('table').hidden = !chosen.table;
  if (!chosen.table) return;
  const [{ Table: table }, scan] = await Promise.all([
    call('DescribeTable', { TableName: chosen.table }), call('Scan', { TableName: chosen.table, Limit: ITEMS })]);
  const keys = table.KeySchema.map(key => key.AttributeName);
  const indexes = [...table.GlobalSecondaryIndexes || [], ...table.LocalSecondaryIndexes || []].map(index => index.IndexName);
  el('name').textContent = table.TableName;
  el('facts').textContent = table.TableStatus + ', key ' + keys.join(' and ') + (indexes.length ? ', indexes ' + indexes.join(', ') : '');
  const names = [...keys, ...new Set(scan.Items.flatMap(item => Object.keys(item)).filter(name => !keys.includes(name)).sort())].slice(0, 12);
  const head = make('tr');
  head.append(...names.map(name => { const cell = make('th', name); cell.scope = 'col'; return cell; }));
  el('columns').replaceChildren(head);
  el('items').replaceChildren(...scan.Items.map(item => {
    const row = make('tr');
    row.append(...names.map(name => make('td', plain(item[name]))));
    return row;
  }));
  el('items-note').textContent = !scan.Items.length ? 'none' : scan.LastEvaluatedKey ? 'the first ' + ITEMS : String(scan.Items.length);
  const base = 'curl ' + location.origin + '/_local/';
  const change = action => base + 'streams -d \'' + JSON.stringify({ table: table.TableName, action }) + '\'';
  el('split').textContent = change('split') + '\n' + change('rollover');
  el('faults').textContent = base + 'faults -d \'' + JSON.stringify({ rules: [{ share: 0.5, operations: ['GetRecords'], for_ms: 10000 }] }) + '\'\n' + base + 'faults -d \'{}\'';
  await drawStream(table.LatestStreamArn);
}
// The shards, each beneath its parent: reading a stream means reading each shard to its end, and its children after it.
async function drawStream(arn) {
  const shards = [];
  let stream, start;
  if (arn) do {
    stream = (await call('DescribeStream', start ? { StreamArn: arn, ExclusiveStartShardId: start } : { StreamArn: arn })).StreamDescription;
    shards.push(...stream.Shards);
    start = stream.LastEvaluatedShardId;
  } while (start);
  const ids = new Set(shards.map(shard => shard.ShardId)), children = new Map();
  for (const shard of shards) {
    const parent = ids.has(shard.ParentShardId) ? shard.ParentShardId : null;
    children.set(parent, [...children.get(parent) || [], shard]);
  }
  const isOpen = shard => shard.SequenceNumberRange.EndingSequenceNumber === undefined;
  el('stream-note').textContent = !stream ? 'The table has no stream: StreamSpecification switches one on.'
    : stream.StreamStatus + ', ' + stream.StreamViewType + ': ' + shards.length + ' shards, ' + shards.filter(isOpen).length +
      ' open. A shard stands below the one that it continues; its records come after all of that one\'s. Choose one to read it.';
  const below = parent => {
    const list = make('ul');
    for (const shard of children.get(parent) || []) {
      const item = make('li');
      item.append(button(short(shard.ShardId), shard.ShardId === chosen.shard, () => { chosen.shard = shard.ShardId; draw(); }),
        make('span', isOpen(shard) ? 'open' : 'closed', isOpen(shard) ? 'open' : 'quiet'));
      if (children.has(shard.ShardId)) item.append(below(shard.ShardId));
      list.append(item);
    }
    return list;
  };
  replace('shards', shards.length ? [below(null)] : []);
  el('shard').hidden = !ids.has(chosen.shard);
  if (ids.has(chosen.shard)) await drawRecords(arn, chosen.shard);
}
async function drawRecords(arn, shard) {
  const { ShardIterator } = await call('GetShardIterator', { StreamArn: arn, ShardId: shard, ShardIteratorType: 'TRIM_HORIZON' });
  const { Records, NextShardIterator } = await call('GetRecords', { ShardIterator, Limit: RECORDS });
  el('shard-name').textContent = shard;
  el('records-note').textContent = Records.length === RECORDS ? 'the oldest ' + RECORDS
    : Records.length + (NextShardIterator ? '' : '; the shard has ended: its children continue it');
  el('records').replaceChildren(...Records.map(({ eventName, dynamodb }) => {
    const row = make('tr');
    row.append(make('td', dynamodb.SequenceNumber), make('td', eventName), make('td', image(dynamodb.Keys)),
      make('td', image(dynamodb.OldImage)), make('td', image(dynamodb.NewImage)));
    return row;
  }));
}

let drawing = Promise.resolve();
function draw() {
  drawing = drawing.then(async () => {
    try {
      await drawTables();
      await drawTable();
      el('state').textContent = 'DynamoDB with Streams on ' + location.origin + ', as of ' + new Date().toLocaleTimeString();
    } catch (error) {
      el('state').textContent = 'not up to date: ' + error.message;
    }
  });
  return drawing;
}
(async () => {
  for (;;) {
    if (document.hidden) await new Promise(done => document.addEventListener('visibilitychange', done, { once: true }));
    await draw();
    await new Promise(done => setTimeout(done, 2000));
  }
})();
