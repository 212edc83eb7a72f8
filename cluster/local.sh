#!/usr/bin/env bash
# A Ray cluster of two nodes on this machine, with a token, for trying what runs on a real one:
# cluster/local.sh start|stop|env, and while it runs add N|remove N, a node.
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
export RAY_raylet_start_wait_time_s=${RAY_raylet_start_wait_time_s:-45}
STORE_BYTES=${STORE_BYTES:-200000000} # of shared memory, a node

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$DIR/token RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1
export PATH=$(cd "$(dirname "$RAY")" && pwd):$PATH # jobs run the `python` beside `ray`

# Each node has a folder of its own, as on real machines: in one that is shared, each would unpack a job's code over the other's.
spawn() { # NUMBER, then what is special about the node
  local number=$1 first=$((PORT + 100 + 10 * $1))
  shift
  nohup "$RAY" start "$@" --log-style=record --log-color=false --num-cpus="$CPUS" --object-store-memory="$STORE_BYTES" --block \
    --dashboard-agent-listen-port="$first" --dashboard-agent-grpc-port=$((first + 1)) --runtime-env-agent-port=$((first + 2)) \
    --metrics-export-port=$((first + 3)) --temp-dir="$DIR/ray-$number" \
    --min-worker-port=$((20000 + 1000 * number)) --max-worker-port=$((20999 + 1000 * number)) \
    >"$DIR/node-$number.log" 2>&1 </dev/null &
  echo $! >"$DIR/node-$number.pid"
}

# Ray gives a node's own processes 15 seconds to come up and ends the node where they need longer, as on a busy machine.
start_node() { # as for spawn
  local log=$DIR/node-$1.log pid
  for _ in 1 2 3 4; do
    spawn "$@"
    pid=$(cat "$DIR/node-$1.pid")
    while kill -0 "$pid" 2>/dev/null; do
      ! grep -q 'Ray runtime started' "$log" || return 0
      sleep 0.5
    done
    rm "$DIR/node-$1.pid"
  done
  tail -5 "$log" >&2
  exit 1
}

answers() { "$RAY" job list --address="http://127.0.0.1:$DASHBOARD_PORT" >/dev/null 2>&1; }

address() { sed -n "s/.*--address='\([^']*\)'.*/\1/p" "$DIR/node-0.log" | head -1; }

add_node() { start_node "$1" --address="$(address)"; }

start() {
  [ -z "$(find "$DIR" -name 'node-*.pid' 2>/dev/null)" ] || { echo "$DIR holds a cluster: cluster/local.sh stop" >&2; exit 1; }
  mkdir -p "$DIR" && chmod 700 "$DIR"
  trap 'stop' EXIT # what does not come up whole is ended
  (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$DIR/token")
  start_node 0 --head --port="$PORT" --dashboard-host=127.0.0.1 --dashboard-port="$DASHBOARD_PORT" \
    --ray-client-server-port=$((PORT + 1))
  for _ in $(seq 60); do
    ! answers || break
    sleep 1
  done
  answers || { echo "the head does not answer; see $DIR/node-0.log" >&2; exit 1; }
  for number in $(seq 1 $((NODES - 1))); do add_node "$number"; done
  trap - EXIT
  echo "A cluster of $NODES nodes, $(address); jobs: http://127.0.0.1:$DASHBOARD_PORT; then: eval \"\$(cluster/local.sh env)\""
}

end_node() { # NUMBER
  local file=$DIR/node-$1.pid
  [ -e "$file" ] || return 0
  # `ray start --block` ends its node's processes. After a crash of the machine the number may be a stranger's.
  ! ps -o args= -p "$(cat "$file")" | grep -qF -- "--temp-dir=$DIR/ray-$1" || kill "$(cat "$file")" 2>/dev/null || true
  for _ in $(seq 60); do kill -0 "$(cat "$file")" 2>/dev/null || break; sleep 0.5; done
  rm "$file"
}

stop() {
  for file in "$DIR"/node-*.pid; do
    [ -e "$file" ] || continue
    number=${file##*node-}
    [ "$number" = 0.pid ] || end_node "${number%.pid}"
  done
  end_node 0
  rm -f "$DIR/token"
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  add) add_node "$2" ;;
  remove) end_node "$2" ;;
  env) echo "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH='$DIR/token'" ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
