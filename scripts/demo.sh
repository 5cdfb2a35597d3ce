#!/usr/bin/env bash
# Sets up, builds, starts a coordinator and a gang of two workers (TP=2) under mpirun, asks a question,
# streams the answer, prints what each rank did, and stops everything.
#   scripts/demo.sh ["question"]        TRIREME_DEMO_PORT: port to use (default 8001)
set -euo pipefail
cd "$(dirname "$0")/.."
question=${1:-What is tensor parallelism?}
server=127.0.0.1:${TRIREME_DEMO_PORT:-8001}
model=models/pilot
bin=build/release/bin

scripts/setup.sh
scripts/build.sh release trireme trireme-coordinator trireme-worker

source scripts/processes.sh
logs=$(mktemp -d)
trap 'stop_processes; rm -rf "$logs"' EXIT

fail() {
  echo "demo: $1" >&2
  cat "$logs"/*.log >&2
  exit 1
}

echo "demo: coordinator at $server, two workers with mpirun, model $model"
start_process "$logs/coordinator.log" "$bin/trireme-coordinator" --model "$model" --grpc "$server"
start_process "$logs/workers.log" mpirun --oversubscribe --bind-to none -np 2 "$bin/trireme-worker" \
  --coordinator "$server" --model "$model" --tp 2 --threads 1
"$bin/trireme" nodes --server "$server" --wait 60 >"$logs/nodes.txt" || fail "the gang did not start"

echo
echo "> $question"
"$bin/trireme" generate --chat --stats --server "$server" "$question" 2>"$logs/stats.txt" ||
  { cat "$logs/stats.txt" >&2; fail "no answer"; }
echo

# "16 prompt tokens, 37 new tokens, first token after 12.3 ms, 456.7 tokens/s"
read -r ttft rate < <(sed -E 's/.*after ([0-9.]+) ms, ([0-9.]+) tokens.*/\1 \2/' "$logs/stats.txt")
awk -v ttft="$ttft" -v rate="$rate" '
  NR == 1 { printf "%4s  %-16s %10s %10s %16s %10s\n", "rank", "host", "shard MB", "load ms",
                   "first token ms", "tokens/s"; next }
  { printf "%4s  %-16s %10s %10s %16s %10s\n", $2, $5, $(NF-3), $(NF-1), ttft, rate }
' "$logs/nodes.txt"
