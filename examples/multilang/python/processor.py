#!/usr/bin/env python3
"""A processor of Amazon's KCL client for Python: prints each record's keys, and checkpoints each batch.

Standard output belongs to KCL's protocol, so it prints to standard error, which the worker copies into its log.
"""

import json
import sys

from amazon_kclpy import kcl
from amazon_kclpy.v3 import processor


class Processor(processor.RecordProcessorBase):
    def initialize(self, start):
        print(f"{start.shard_id} begins after {start.sequence_number}", file=sys.stderr)

    def process_records(self, batch):
        for record in batch.records:
            change = json.loads(record.binary_data)
            print(change["eventName"], json.dumps(change["dynamodb"]["Keys"]), file=sys.stderr)
        batch.checkpointer.checkpoint(batch.records[-1].sequence_number)

    def lease_lost(self, _):
        """Another worker has the shard: a checkpoint would be refused."""

    def shard_ended(self, end):
        end.checkpointer.checkpoint()

    def shutdown_requested(self, stop):
        stop.checkpointer.checkpoint()


if __name__ == "__main__":
    kcl.KCLProcess(Processor()).run()
