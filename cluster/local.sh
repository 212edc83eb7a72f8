#!/usr/bin/env bash
# A Ray cluster of two nodes on this machine, with a token, for trying what runs on a real one: cluster/local.sh start|stop|env
#
#   cluster/local.sh start && eval "$(cluster/local.sh env)"
#   readqg submit run --address http://127.0.0.1:8265 --out /tmp/readqg/run --preset small
#   cluster/local.sh stop
#
# Settings: DIR (logs, token, process ids), RAY (the ray command), PORT and DASHBOARD_PORT, CPUS a node, NODES (1: the head alone).
# Only processes started here are ended: `ray stop` would end every Ray on the machine.
set -euo pipefail
DIR=${DIR:-/tmp/readqg-cluster}
RAY=${RAY:-$(command -v ray || echo "$(dirname "$0")/../.venv/bin/ray")}
PORT=${PORT:-7479} DASHBOARD_PORT=${DASHBOARD_PORT:-8265} CPUS=${CPUS:-2} NODES=${NODES:-2}
STORE_BYTES=${STORE_BYTES:-200000000} # of shared memory, a node

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$DIR/token RAY_USAGE_STATS_ENABLED=0
export PATH=$(cd "$(dirname "$RAY")" && pwd):$PATH # jobs run the `python` beside `ray`

start_node() { # NUMBER, then what is special about the node
  local number=$1 first=$((PORT + 100 + 10 * $1))
  shift
  nohup "$RAY" start "$@" --num-cpus="$CPUS" --object-store-memory="$STORE_BYTES" --block \
    --dashboard-agent-listen-port="$first" --dashboard-agent-grpc-port=$((first + 1)) --runtime-env-agent-port=$((first + 2)) \
    --min-worker-port=$((20000 + 1000 * number)) --max-worker-port=$((20999 + 1000 * number)) \
    >"$DIR/node-$number.log" 2>&1 </dev/null &
  echo $! >"$DIR/node-$number.pid"
}

answers() { "$RAY" job list --address="http://127.0.0.1:$DASHBOARD_PORT" >/dev/null 2>&1; }

start() {
  [ -z "$(find "$DIR" -name 'node-*.pid' 2>/dev/null)" ] || { echo "$DIR holds a cluster: cluster/local.sh stop" >&2; exit 1; }
  mkdir -p "$DIR" && chmod 700 "$DIR"
  (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$DIR/token")
  start_node 0 --head --port="$PORT" --dashboard-host=127.0.0.1 --dashboard-port="$DASHBOARD_PORT" \
    --ray-client-server-port=$((PORT + 1)) --temp-dir="$DIR/ray"
  for _ in $(seq 60); do
    answers && break
    kill -0 "$(cat "$DIR/node-0.pid")" 2>/dev/null || { tail -5 "$DIR/node-0.log" >&2; rm "$DIR/node-0.pid"; exit 1; }
    sleep 1
  done
  answers || { echo "the head does not answer; see $DIR/node-0.log" >&2; exit 1; }
  address=$(sed -n "s/.*--address='\([^']*\)'.*/\1/p" "$DIR/node-0.log" | head -1)
  for number in $(seq 1 $((NODES - 1))); do start_node "$number" --address="$address"; done
  echo "A cluster of $NODES nodes, $address; jobs: http://127.0.0.1:$DASHBOARD_PORT; then: eval \"\$(cluster/local.sh env)\""
}

stop() {
  for file in "$DIR"/node-*.pid; do
    [ -e "$file" ] || continue
    kill "$(cat "$file")" 2>/dev/null || true # `ray start --block` ends its node's processes
    for _ in $(seq 20); do kill -0 "$(cat "$file")" 2>/dev/null || break; sleep 0.5; done
    rm "$file"
  done
  rm -f "$DIR/token"
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  env) echo "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH='$DIR/token'" ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
