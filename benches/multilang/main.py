"""Records a second and CPU a record through one Python child, beside a loop on boto3; and the memory of many children.

    PYTHONPATH=.../amazon_kclpy-3.2.0 python3 benches/multilang/main.py target/release/shardkeeper

The Python needs boto3. Both read the same shard of the local service in turn, parse each record's JSON and count it. The
worker's CPU time is that of all its processes less the child's own.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_REGION": "us-east-1"}
FEW = 1_000
TABLE = "Load"


def child():
    from amazon_kclpy import kcl
    from amazon_kclpy.v3 import processor

    class Counter(processor.RecordProcessorBase):
        def __init__(self):
            self.records = 0
            self.began = None

        def initialize(self, _):
            pass

        def process_records(self, batch):
            self.began = self.began or time.time()
            self.records += sum(len(json.loads(record.binary_data)["dynamodb"]["Keys"]) for record in batch.records)
            batch.checkpointer.checkpoint()
            if self.records >= int(os.environ["BENCH_RECORDS"]):
                tell(self.records, self.began)

        def lease_lost(self, _):
            pass

        def shard_ended(self, ended):
            ended.checkpointer.checkpoint()

        def shutdown_requested(self, asked):
            asked.checkpointer.checkpoint()

    kcl.KCLProcess(Counter()).run()


def boto3_loop(arn):
    import boto3

    streams = boto3.client("dynamodbstreams", region_name="us-east-1", endpoint_url=os.environ["BENCH_URL"])
    shard = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"][0]["ShardId"]
    iterator = streams.get_shard_iterator(StreamArn=arn, ShardId=shard, ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    records, began = 0, time.time()
    while records < int(os.environ["BENCH_RECORDS"]):
        page = streams.get_records(ShardIterator=iterator)
        records += sum(len(record["dynamodb"]["Keys"]) for record in page["Records"])
        iterator = page["NextShardIterator"]
    tell(records, began)


def tell(records, began):
    """Writes what this process has done, whole or not at all."""
    out = pathlib.Path(os.environ["BENCH_OUT"])
    line = {"records": records, "seconds": time.time() - began, "cpu": time.process_time()}
    out.with_suffix(".part").write_text(json.dumps(line))
    out.with_suffix(".part").rename(out)


class Service:
    """The local service with a table whose stream has so many shards."""

    def __init__(self, program, shards, records):
        line = f"local --port 0 --log-level warn --rollover 24h --iterator-ttl 24h --seed 1 --shards {shards}"
        self.process = subprocess.Popen([program, *line.split()], stdout=subprocess.PIPE, text=True)
        self.url = "http://" + self.process.stdout.readline().split("http://")[1].split()[0]
        schema = {"AttributeDefinitions": [{"AttributeName": "key", "AttributeType": "S"}]}
        schema["KeySchema"] = [{"AttributeName": "key", "KeyType": "HASH"}]
        stream = {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}
        table = self.call("CreateTable", {"TableName": TABLE, "BillingMode": "PAY_PER_REQUEST", **schema,
                                          "StreamSpecification": stream})
        self.arn = table["TableDescription"]["LatestStreamArn"]
        if records:
            self.post("/_local/preload", {"table": TABLE, "records_per_shard": records, "keys_per_shard": 4,
                                          "value_bytes": 250, "value_attributes": 3, "pages_ahead": True})

    def call(self, operation, body):
        return self.post("/", body, {"x-amz-target": "DynamoDB_20120810." + operation})

    def post(self, path, body, headers={}):
        request = urllib.request.Request(self.url + path, data=json.dumps(body).encode(), headers=headers)
        return json.load(urllib.request.urlopen(request))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def environment(service, records, out):
    # A worker takes variables with its prefix for settings.
    others = {name: value for name, value in os.environ.items() if not name.startswith("SHARDKEEPER_")}
    return {**others, **CREDENTIALS, "BENCH_URL": service.url, "BENCH_RECORDS": str(records), "BENCH_OUT": str(out)}


def worker(program, service, app, records, out, *flags):
    child = f"{sys.executable} {__file__} --as child"
    line = ["run", "--table", TABLE, "--app", app, "--endpoint-url", service.url, "--metrics-addr", "off"]
    return subprocess.Popen([program, *line, "--to", "multilang:" + child, *flags],
                            env=environment(service, records, out), stderr=subprocess.DEVNULL)


def cpu_with_children(process):
    """Seconds of a process that has ended, and of the children that it waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, -15), process.returncode
    return usage.ru_utime + usage.ru_stime


def finished(process, out):
    while not out.exists():
        # Left to be waited for, which tells its CPU time.
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is None or out.exists(), f"{process.args} ended early"
        time.sleep(0.02)
    return json.loads(out.read_text())


def through_child(program, service, records, folder, number):
    out = folder / f"child-{number}"
    process = worker(program, service, f"bench-{number}", records, out)
    told = finished(process, out)
    process.terminate()
    whole = cpu_with_children(process)
    # The child may work on a little after it has told its time.
    return {"speed": records / told["seconds"], "child": told["cpu"] / records, "all": whole / records}


def through_boto3(service, records, folder, number):
    out = folder / f"boto3-{number}"
    command = [sys.executable, __file__, "--as", "boto3", "--arn", service.arn]
    process = subprocess.Popen(command, env=environment(service, records, out))
    told = finished(process, out)
    whole = cpu_with_children(process)
    return {"speed": records / told["seconds"], "all": whole / records}


def memory(program, folder, shards):
    """MiB of a worker, and of each of its children, that hold so many shards."""
    with Service(program, shards, 1) as service:
        process = worker(program, service, "memory", FEW, folder / "memory")
        children, deadline = [], time.time() + 300
        while len(children) < shards:
            assert time.time() < deadline, "the children did not start within 300 s"
            time.sleep(0.5)
            tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
            children = [child for task in tasks for child in (task / "children").read_text().split()]
        time.sleep(5)
        own, each = pss(process.pid), statistics.mean(pss(child) for child in children)
        process.terminate()
        process.wait()
        return own, each


def pss(process):
    """MiB, with its part of what is shared."""
    rows = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return int(next(row for row in rows if row.startswith("Pss:")).split()[1]) / 1024


def main(program, rounds, records, shards):
    with tempfile.TemporaryDirectory() as folder, Service(program, 1, records) as service:
        folder = pathlib.Path(folder)
        ours, boto3 = [], []
        for number in range(rounds):
            ours.append(through_child(program, service, records, folder, number))
            boto3.append(through_boto3(service, records, folder, number))
        middle = lambda runs, name: statistics.median(run[name] for run in runs)
        ratios = sorted(one["all"] / other["all"] for one, other in zip(ours, boto3))
        print(f"{records} records of 300 bytes in one shard, the middle of {rounds} rounds")
        print(f"one child:  {middle(ours, 'speed'):8.0f} records/s, {middle(ours, 'all') * 1e6:6.1f} us of CPU a record, "
              f"of which the child {middle(ours, 'child') * 1e6:.1f}")
        print(f"boto3 loop: {middle(boto3, 'speed'):8.0f} records/s, {middle(boto3, 'all') * 1e6:6.1f} us of CPU a record")
        print(f"CPU against the loop's: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        own, each = memory(program, folder, shards)
        print(f"{shards} shards: the worker {own:.0f} MiB, each child {each:.1f} MiB, together {own + shards * each:.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=int, default=40_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--as", dest="role", choices=["child", "boto3"])
    parser.add_argument("--arn")
    arguments = parser.parse_args()
    if arguments.role == "child":
        child()
    elif arguments.role == "boto3":
        boto3_loop(arguments.arn)
    else:
        main(os.path.abspath(arguments.program), arguments.rounds, arguments.records, arguments.shards)
