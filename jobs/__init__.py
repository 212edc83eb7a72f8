"""One short script a stage, for `ray job submit`; the same flags as `readqg STAGE`.

Each begins with its exact commands: on this machine's own head (cluster/local.sh starts one), on a cluster at the end of a tunnel
(cluster/README.md), and at a tiny size. Without `ray job submit ... --` and `--compute.ray-address auto` they run without a head.
The log of a job holds lines of progress and, last, one line of JSON. `readqg submit STAGE` builds and follows the same commands.
"""
