"""Records the rows of a version's lease and fleet tables: python3 record_version.py PROGRAM >last_version.json

Two of its workers read a table of four shards on its own local service. The moments are `reading` (one has all leases and
has checkpointed all records), `moving` (the second has joined, and the first still reads what it hands over) and `left`
(both have ended). Needs boto3.
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

program = sys.argv[1]
keys = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
os.environ.update(keys, AWS_DEFAULT_REGION="us-east-1")
environment = {"PATH": os.environ["PATH"], "AWS_REGION": "us-east-1", **keys}
import boto3  # noqa: E402: it reads the variables

may_answer = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        may_answer.wait(60)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def until(condition):
    error = None
    for _ in range(300):
        try:
            if value := condition():
                return value
        except Exception as caught:  # such as a table that is not there yet
            error = caught
        time.sleep(0.1)
    raise SystemExit(f"did not happen: {error}")


handler = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=handler.serve_forever, daemon=True).start()
service = subprocess.Popen(
    [program, "local", "--port", "0", "--shards", "4"],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
)
url = next(word for word in service.stdout.readline().decode().split() if word.startswith("http://"))
tables = boto3.client("dynamodb", endpoint_url=url)
streams = boto3.client("dynamodbstreams", endpoint_url=url)
tables.create_table(
    TableName="Things",
    AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
    KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
    BillingMode="PAY_PER_REQUEST",
    StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
)
until(lambda: tables.describe_table(TableName="Things")["Table"]["TableStatus"] == "ACTIVE")
stream = tables.describe_table(TableName="Things")["Table"]["LatestStreamArn"]


def write(n):
    for key in range(40):
        tables.put_item(TableName="Things", Item={"key": {"S": f"key-{key:02}"}, "n": {"N": str(n)}})


def records():
    positions = {}
    for shard in streams.describe_stream(StreamArn=stream)["StreamDescription"]["Shards"]:
        shard = shard["ShardId"]
        iterator = streams.get_shard_iterator(StreamArn=stream, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
        page = streams.get_records(ShardIterator=iterator["ShardIterator"])
        positions[shard] = [record["dynamodb"]["SequenceNumber"] for record in page["Records"]]
    return positions


def rows():
    scan = lambda table: tables.scan(TableName=table, ConsistentRead=True)["Items"]
    return {"leases": scan("app"), "fleet": scan("app-Fleet")}


def worker(name):
    flags = "run --table Things --app app --lease-duration 2s --checkpoint-interval 300ms --metrics-addr 127.0.0.1:0"
    to = f"http://127.0.0.1:{handler.server_port}/"
    log = tempfile.TemporaryFile()
    arguments = [program, *flags.split(), "--endpoint-url", url, "--to", to, "--worker-id", name]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=log)


def moment(condition):
    found = {}
    until(lambda: condition(found.update(rows()) or found["leases"]))
    return found


write(1)
write(2)
last = {shard: positions[-1] for shard, positions in records().items()}
may_answer.set()
first = worker("old-1")
recorded = {
    "reading": moment(
        lambda leases: len(leases) == 4
        and all(row["checkpoint"]["S"] == last[row["leaseKey"]["S"]] for row in leases)
        and any("caughtUpTo" in row for row in rows()["fleet"])
    )
}
may_answer.clear()
write(3)
second = worker("old-2")
recorded["moving"] = moment(lambda leases: any("checkpointOwner" in row for row in leases))
may_answer.set()
moment(
    lambda leases: not any("checkpointOwner" in row for row in leases)
    and {row.get("leaseOwner", {}).get("S") for row in leases} == {"old-1", "old-2"}
)
for process in (first, second):
    process.send_signal(signal.SIGTERM)
    process.wait()
json.dump({**recorded, "left": rows(), "records": records(), "stream": stream}, sys.stdout, indent=1, sort_keys=True)
print()
service.terminate()
