"""A handler of DynamoDB changes in Python, with the standard library alone.

    python3 handler.py --port 8080
    shardkeeper run --table Phones --app phone-printer --to http://127.0.0.1:8080/

shardkeeper posts batches of records in the shape of AWS Lambda's event, and accepts the same answers: an empty body or {}
when all is done, or {"batchItemFailures": [...]} with the records that are not. Set SHARDKEEPER_HTTP_SECRET for both
programs to refuse requests without its signature.
"""

import argparse
import hashlib
import hmac
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ.get("SHARDKEEPER_HTTP_SECRET", "").encode()


def handle(record):
    """Does the work for one change. An exception means that it is not done; the record comes again."""
    change = record["dynamodb"]
    image = change.get("NewImage") or change.get("OldImage") or change["Keys"]
    line = f"{record['eventName']} {json.dumps(image, sort_keys=True)}\n"
    print(line, end="", flush=True)  # in one piece: shards are handled at the same time


def handle_batch(records):
    """Handles a shard's records in their order. Returns the first that is not done."""
    for record in records:
        try:
            handle(record)
        except Exception as error:  # the records before it are done
            print(f"{record.get('eventID')}: {error!r}", file=sys.stderr)
            return {"batchItemFailures": [{"itemIdentifier": record["dynamodb"]["SequenceNumber"]}]}
    return {"batchItemFailures": []}


def is_signed(headers, body):
    expected = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, headers.get("X-Shardkeeper-Signature", ""))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open between batches
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if SECRET and not is_signed(self.headers, body):
            self.answer(403, {"error": "the signature is missing or wrong"})
            return
        self.answer(200, handle_batch(json.loads(body)["Records"]))

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8080, help="0 for any free one")
    server = Server(("127.0.0.1", parser.parse_args().port), Handler)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
