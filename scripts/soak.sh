#!/usr/bin/env bash
# A server under 16 streams with a fault every 20 s, for half an hour: scripts/soak.sh [SECONDS]
# Prints what the coordinator and `trireme serve` hold, each minute, and fails if an answer differs or they keep growing.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/processes.sh
preset=${TRIREME_PRESET:-release}
[[ -f build/$preset/build.ninja ]] || cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" --target trireme trireme-coordinator trireme-worker fault_driver >&2
bin=build/$preset/bin
server=127.0.0.1:$((20000 + RANDOM % 10000))
log=$(mktemp)
trap 'stop_processes; rm -f "$log"' EXIT
start_process "$log" "$bin/trireme" serve models/pilot --tp 2 --grpc "$server" --kv-memory 64MiB
"$bin/trireme" nodes --server "$server" --wait 60 >/dev/null
coordinator=$(pgrep -P "${pids[0]}" -f trireme-coordinator)
"$bin/fault_driver" --server "$server" --for-s "${1:-1800}" --every-s 20 --kind kill,kill-again,stop,term \
  --duration-ms-max 10000 --watch "$coordinator" --watch "${pids[0]}"
