"""A driver in a process of its own: runs a stage of many small shards into OUT without Ray, and prints what it committed."""

import json
import sys
import time

import pyarrow as pa

from readqg.shards import OutputFolder
from readqg.stage import ShardStage, compute_shard, prepare_shard

SHARDS = 24


class Slow(ShardStage):
    """Numbers and their squares, `seconds` a shard."""

    name = "slow"
    schema = pa.schema([("doc_id", pa.string()), ("square", pa.int64()), ("error", pa.string())])
    key = ("doc_id",)
    total = SHARDS

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def inputs(self):
        return {"numbers": f"{SHARDS}"}

    def read(self, index):
        numbers = range(index * 100, (index + 1) * 100)
        return pa.table({"doc_id": [f"d{n}" for n in numbers], "n": list(numbers)})

    def compute(self, table):
        time.sleep(self.seconds)
        squares = [n * n for n in table["n"].to_pylist()]
        return pa.table({"doc_id": table["doc_id"], "square": squares, "error": pa.nulls(len(squares))})


def main(out: str, seconds: float) -> None:
    """Every receipt as a line."""
    stage = Slow(seconds)
    folder = OutputFolder.begin(out, stage.name, {}, stage.inputs())
    print("begun", flush=True)
    for index in [] if folder.done else folder.missing(stage.total):
        result = compute_shard(stage, prepare_shard(stage, stage.read(index)))
        print(json.dumps(folder.commit(index, stage.total, result)), flush=True)
    folder.finish(stage.total)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
