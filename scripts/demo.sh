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

logs=$(mktemp -d)
pids=()
cleanup() {
  # mpirun and the coordinator stop their own: TERM is enough, KILL is for what does not listen.
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for _ in {1..50}; do
    alive=0
    for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null && alive=1; done
    ((alive)) || break
    sleep 0.1
  done
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  rm -rf "$logs"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

fail() {
  echo "demo: $1" >&2
  cat "$logs"/*.log >&2
  exit 1
}

echo "demo: coordinator at $server, two workers with mpirun, model $model"
"$bin/trireme-coordinator" --model "$model" --grpc "$server" >"$logs/coordinator.log" 2>&1 &
pids+=($!)
if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
mpirun --oversubscribe --bind-to none -np 2 "$bin/trireme-worker" --coordinator "$server" \
  --model "$model" --tp 2 --threads 1 >"$logs/workers.log" 2>&1 &
pids+=($!)
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
  { printf "%4s  %-16s %10s %10s %16s %10s\n", $1, $4, $(NF-3), $(NF-1), ttft, rate }
' "$logs/nodes.txt"
