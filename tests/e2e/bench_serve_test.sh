#!/usr/bin/env bash
# trireme bench serve against real ranks: tests/e2e/bench_serve_test.sh BIN-DIR SOURCE-DIR
# Small numbers; what is checked is that the report adds up, not that anything is fast.
set -euo pipefail
bin=$1
model=$2/models/pilot
work=$(mktemp -d)
source "$2/scripts/processes.sh"
trap 'stop_processes; rm -rf "$work"' EXIT

fail() {
  echo "FAIL $1"
  tail -n 20 "$work"/*.log | sed 's/^/  | /'
  cat "$work/report.json" 2>/dev/null || true
  exit 1
}

start_process "$work/coordinator.log" "$bin/trireme-coordinator" --model "$model" --grpc 127.0.0.1:0 \
  --max-waiting 8
for _ in {1..100}; do
  server=$(sed -nE 's/.*listening on ([0-9.]+:[0-9]+).*/\1/p' "$work/coordinator.log" 2>/dev/null || true)
  [[ -n $server ]] && break
  sleep 0.1
done
[[ -n $server ]] || fail "the coordinator did not start"

export TRIREME_SERVER=$server
bench() { timeout 300 "$bin/trireme" bench serve "$@"; }

# The number at a path of the report, such as requests.completed, of its one-line form.
value() {
  local text key=${1##*.}
  text=$(cat "$work/report.json")
  if [[ $1 == *.* ]]; then text=$(sed -E "s/.*\"${1%.*}\":(\{.*)/\1/" <<<"$text"); fi
  sed -E "s/^[^}]*\"$key\":([-0-9.e+]+).*/\1/" <<<"$text"
}
expect() {
  local path=$1 want=$2 got
  got=$(value "$path")
  [[ $got == "$want" ]] || fail "$path is $got, not $want"
}
expect_positive() {
  awk -v value="$(value "$1")" 'BEGIN { exit !(value > 0) }' || fail "$1 is $(value "$1")"
}
expect_error() {
  local want=$1
  shift
  if bench "$@" >"$work/out.txt" 2>&1; then fail "no failure: $*"; fi
  grep -qF -- "$want" "$work/out.txt" || { cat "$work/out.txt"; fail "no \"$want\": $*"; }
}
adds_up() {
  local sum=$(($(value requests.completed) + $(value requests.refused) + $(value requests.failed)))
  expect requests.answered "$sum"
}

expect_error "not ready" --num-requests 1
start_process "$work/workers.log" mpirun --oversubscribe --bind-to none -np 2 "$bin/trireme-worker" \
  --coordinator "$server" --model "$model" --tp 2 --threads 1 --kv-memory 64MiB
"$bin/trireme" nodes --wait 60 >/dev/null || fail "the gang did not start"

# A closed loop: nothing is refused, every length is exact.
bench --num-requests 12 --concurrency 3 --input-len 24 --output-len 8 --warmup 2 --json \
  >"$work/report.json" || fail "closed loop"
adds_up
expect requests.answered 12
expect requests.completed 12
expect requests.completed_short 0
expect tokens.input $((12 * 24))
expect tokens.output $((12 * 8))
expect ttft_ms.count 12
expect tpot_ms.count 12
expect itl_ms.count $((12 * 7))
expect e2e_ms.count 12
expect_positive throughput.output_tokens_per_s
echo "ok   closed loop"

# A Poisson process with prefixes, tenants, random sampling, a limit that all meet, and an intruder.
bench --num-requests 10 --request-rate 40 --input-len uniform:4:20 --output-len choice:16,24 \
  --prefix-len 32 --prefix-count 2 --tenants 2 --priority high --sampling random --seed 3 \
  --goodput e2e:300000 --intrude-len 600 --intrude-at-s 0.1 --json >"$work/report.json" ||
  fail "Poisson"
adds_up
expect requests.completed 10
expect goodput.good 10
expect goodput.share 1.0
expect intrusion.prompt_tokens 600
expect_positive intrusion.window_s
echo "ok   Poisson with an intruder"

# More than the queue takes: what is refused is counted, and nothing is lost.
bench --num-requests 1000 --input-len 16 --output-len 4 --json >"$work/report.json" || fail "overload"
adds_up
expect requests.answered 1000
expect requests.failed 0
expect_positive requests.completed
expect_positive requests.refused
echo "ok   overload"

# Deadlines that pass are failures by code (or refusals, if the server saw them coming), and Ctrl-C prints what there is.
bench --num-requests 4 --output-len 800 --deadline-s 0.2 --json >"$work/report.json" 2>/dev/null || true
adds_up
expect requests.answered 4
[[ $(value requests.failed) == 0 ]] ||
  expect failed_by_code.DEADLINE_EXCEEDED "$(value requests.failed)"
# A background job of a script starts with SIGINT ignored; a user's does not.
env --default-signal=INT "$bin/trireme" bench serve --duration-s 100 \
  --concurrency 2 --input-len 8 --output-len 900 --json >"$work/report.json" &
client=$!
sleep 1
kill -INT "$client"
code=0
wait "$client" || code=$?
[[ $code == 130 ]] || fail "exit code $code after Ctrl-C"
adds_up
expect_positive requests.answered
echo "ok   deadlines and Ctrl-C"

expect_error "context of 1024" --input-len 2000
expect_error "cannot reach" --server 127.0.0.1:1
expect_error "is not a length" --input-len zipf:3
bench --num-requests 2 --input-len 8 --output-len 4 >"$work/out.txt" || fail "table"
grep -q 'output tokens/s' "$work/out.txt" || fail "no table"
echo "ok   errors and the table"
