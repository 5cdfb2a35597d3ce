#!/usr/bin/env bash
# Measures a server under load: builds, starts a coordinator and workers for a model, runs a fixed set of
# `trireme bench serve`, prints their tables and leaves each as DIR/NAME.json and DIR/NAME.txt.
#   scripts/bench_serving.sh DIR [MODEL [TP [PP [THREADS]]]]     default: /tmp/llama-1b 1 1 2 (threads a rank)
# The default model is made by tools/make_random_checkpoint.py /tmp/llama-1b if it is missing.
#   TRIREME_BENCH_ONLY="closed-4 intrude"   only these of: closed-1 closed-4 closed-16 poisson prefix intrude overload
#   TRIREME_BENCH_LENGTHS="128 64"          tokens of prompts and answers
#   TRIREME_BENCH_LONG=8000                 tokens of the intruding prompt
#   TRIREME_BENCH_PREFIX=1024               tokens of the shared prefix
#   TRIREME_BENCH_RATE=0.5                  requests/s that count as capacity; default: as closed-16 measured
#   TRIREME_BENCH_COORDINATOR, TRIREME_BENCH_WORKER    further flags of the programs, for example
#                                           "--max-step-ms 100 --max-waiting 64" and "--kv-cache-dtype int8"
#   TRIREME_BENCH_KV_MEMORY=2GiB            of each rank; TRIREME_BENCH_PORT=8001
set -euo pipefail
if (($# < 1)) || [[ $1 == -* ]]; then
  sed -nE '2,/^set/s/^# ?//p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
model=${2:-/tmp/llama-1b}
[[ ! -d $model ]] || model=$(cd "$model" && pwd)
tp=${3:-1} pp=${4:-1} threads=${5:-2}
cd "$(dirname "$0")/.."
export TRIREME_SERVER=127.0.0.1:${TRIREME_BENCH_PORT:-8001}
read -r input output <<<"${TRIREME_BENCH_LENGTHS:-128 64}"
only=${TRIREME_BENCH_ONLY:-closed-1 closed-4 closed-16 poisson prefix intrude overload}
read -ra coordinator_flags <<<"${TRIREME_BENCH_COORDINATOR:-}"
read -ra worker_flags <<<"${TRIREME_BENCH_WORKER:-}"
bin=build/release/bin

scripts/setup.sh
scripts/build.sh release trireme trireme-coordinator trireme-worker
if [[ ! -d $model && $model == /tmp/llama-1b ]]; then tools/make_random_checkpoint.py "$model"; fi

source scripts/processes.sh
trap stop_processes EXIT

fail() {
  echo "bench_serving: $1" >&2
  tail -n 20 "$out"/*.log >&2
  exit 1
}

echo "bench_serving: $model, TP=$tp PP=$pp, $threads threads a rank, results in $out"
start_process "$out/coordinator.log" "$bin/trireme-coordinator" --model "$model" \
  --grpc "$TRIREME_SERVER" "${coordinator_flags[@]}"
start_process "$out/workers.log" mpirun --oversubscribe --bind-to none -np $((tp * pp)) \
  "$bin/trireme-worker" --coordinator "$TRIREME_SERVER" --model "$model" --tp "$tp" --pp "$pp" \
  --threads "$threads" --kv-memory "${TRIREME_BENCH_KV_MEMORY:-2GiB}" "${worker_flags[@]}"
"$bin/trireme" nodes --wait 300 --json >"$out/nodes.json" || fail "the gang did not start"

# What the figures belong to.
{
  git describe --always --dirty
  date -u +%FT%TZ
  lscpu | grep -E '^(Model name|CPU\(s\)):'
  echo "load average before: $(cut -d' ' -f1-3 /proc/loadavg)"
  echo "model $model, TP=$tp PP=$pp, $threads threads a rank"
  echo "coordinator flags: ${coordinator_flags[*]}; worker flags: ${worker_flags[*]}"
} >"$out/machine.txt"

failures=0
# run NAME "what it is" FLAGS...
run() {
  local name=$1 what=$2
  shift 2
  [[ " $only " == *" $name "* ]] || return 0
  echo
  echo "== $name: $what"
  echo "   trireme bench serve $*"
  "$bin/trireme" bench serve --json-file "$out/$name.json" "$@" | tee "$out/$name.txt" && return
  echo "bench_serving: $name failed" >&2
  failures=$((failures + 1))
}

lengths=(--input-len "$input" --output-len "$output")
run closed-1 "one client after the other" --concurrency 1 --num-requests 5 --warmup 1 "${lengths[@]}"
run closed-4 "four clients" --concurrency 4 --num-requests 16 "${lengths[@]}" --seed 1
run closed-16 "sixteen clients" --concurrency 16 --num-requests 48 "${lengths[@]}" --seed 2

# Capacity, for loads that are a share or a multiple of it.
if [[ -n ${TRIREME_BENCH_RATE:-} ]]; then
  capacity=$TRIREME_BENCH_RATE
elif [[ -f $out/closed-16.json ]]; then
  capacity=$(sed -nE 's/^ *"requests_per_s": ([0-9.e+-]+).*/\1/p' "$out/closed-16.json" | head -1)
else
  capacity=1
fi
of_capacity() { awk -v c="$capacity" -v f="$1" 'BEGIN { r = c * f; printf "%.6f", (r > 1e-3) ? r : 1e-3 }'; }

run poisson "a Poisson process at 70 % of closed-16" --request-rate "$(of_capacity 0.7)" \
  --num-requests 40 "${lengths[@]}" --seed 3 --goodput ttft:10000,tpot:500
run prefix "four clients, a shared prefix" --concurrency 4 --num-requests 16 --seed 4 \
  --prefix-len "${TRIREME_BENCH_PREFIX:-1024}" --input-len 32 --output-len 32
run intrude "a long prompt while eight streams run" --concurrency 8 --num-requests 8 --seed 5 \
  --input-len 16 --output-len 512 --intrude-len "${TRIREME_BENCH_LONG:-8000}" --intrude-at-s 15
# The deadline bounds what waits at the end.
run overload "ten times closed-16 for a minute" --request-rate "$(of_capacity 10)" --duration-s 60 \
  --deadline-s 60 "${lengths[@]}" --seed 6 --goodput ttft:30000

kill -0 "${pids[@]}" 2>/dev/null || fail "the coordinator or the workers did not survive"
"$bin/trireme" stats --json >"$out/stats.json" 2>/dev/null || rm -f "$out/stats.json"
echo
echo "bench_serving: results in $out, $failures failed"
exit $((failures > 0))
