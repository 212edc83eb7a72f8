"""The output folder: one Parquet file a shard, committed once by appearing under its final name; resume, refusal, verification.

```
OUT/
  _config.json                     what was asked: stage, config, input and model fingerprints, versions; written first
  part-00003-of-00064.parquet      one shard, whole; its footer holds counts, first and last input id, input fingerprint
  _attempts/00003.2                a try that has begun: host, pid, driver run; the row in hand once it is done row by row
  _tmp/<run id>/                   tries under way of one driver
  _metrics/00003.json              per part: sha256, seconds, tokens, tries; outside every digest
  _SUCCESS                         written last: counts, shards, sha256 of every part (or, for a model, of every file)
```
A try is written to `_tmp`, synced, read back with its page checksums, then hard-linked to the final name only if that name is
absent: whoever comes second deletes its own try. Nothing rests on locks, so late, doubled or killed workers do no harm.
In an object store (`readqg.places`) there is no `_tmp`: the try is made and checked in a local file, then put in one request on
condition that the name is absent; whoever comes second looks that the same shard of the same input is there. `once.prove` has
tried before whether the store keeps to that.
"""

from readqg.shards.files import appearing, explained, fingerprint, part_name, read_footer, read_json, sha256_file, stable_hash, write_whole
from readqg.shards.reading import InputFolder, is_stage_config, open_input, verify
from readqg.shards.writing import OutputFolder

__all__ = [
    "InputFolder",
    "OutputFolder",
    "appearing",
    "explained",
    "fingerprint",
    "is_stage_config",
    "open_input",
    "part_name",
    "read_footer",
    "read_json",
    "sha256_file",
    "stable_hash",
    "verify",
    "write_whole",
]
