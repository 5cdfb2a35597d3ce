#!/usr/bin/env bash
# The real programs together: tests/e2e/serve_test.sh BIN-DIR SOURCE-DIR
# Each case_* function is one test; it runs with its own coordinator and leaves no process behind.
set -uo pipefail
bin=$1
source=$2
model=$source/models/pilot
question="What is Trireme?"
answer="Trireme is a native C++ inference cluster for large language models. It splits a model over many \
processes with tensor, pipeline and data parallelism."
work=$(mktemp -d)
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_orte_base_help_aggregate=1

coordinator=
gang=

# Starts a coordinator on a free port; sets $coordinator and $server.
start_coordinator() {
  rm -f "$work/coordinator.log"  # the last one's address must not be read before the new one opens it
  "$bin/trireme-coordinator" --model "$model" --grpc 127.0.0.1:0 "$@" >"$work/coordinator.log" 2>&1 &
  coordinator=$!
  for _ in {1..100}; do
    server=$(sed -nE 's/.*listening on ([0-9.]+:[0-9]+).*/\1/p' "$work/coordinator.log" 2>/dev/null)
    [[ -n $server ]] && return
    sleep 0.1
  done
  echo "the coordinator did not start"
  return 1
}

# Starts TP x PP workers and waits until they serve: start_gang TP PP; sets $gang.
start_gang() {
  mpirun --oversubscribe --bind-to none -np $(($1 * $2)) "$bin/trireme-worker" \
    --coordinator "$server" --model "$model" --tp "$1" --pp "$2" --threads 1 --kv-memory 64MiB \
    >"$work/workers.log" 2>&1 &
  gang=$!
  "$bin/trireme" nodes --server "$server" --wait 60 >"$work/nodes.txt"
}

stop_all() {
  [[ -n $coordinator ]] && kill -TERM "$coordinator" 2>/dev/null && wait "$coordinator"
  [[ -n $gang ]] && kill -TERM "$gang" 2>/dev/null
  [[ -n $gang ]] && wait "$gang"
  coordinator= gang=
}

ask() { "$bin/trireme" generate --server "$server" --timeout 300 "$@"; }
ask_fails() {
  local want=$1
  shift
  expect_failure "$want" "$bin/trireme" generate --server "$server" --timeout 300 "$@"
}

expect() {
  local what=$1 got=$2 want=$3
  [[ $got == "$want" ]] && return
  printf '%s:\n  got  %q\n  want %q\n' "$what" "$got" "$want"
  return 1
}

expect_match() {
  local what=$1 got=$2 want=$3
  [[ $got == *"$want"* ]] && return
  printf '%s:\n  got  %q\n  want it to contain %q\n' "$what" "$got" "$want"
  return 1
}

# Runs a command that must fail soon with one clear line.
expect_failure() {
  local want=$1
  shift
  timeout 60 "$@" >"$work/out.txt" 2>&1
  local code=$?
  ((code != 0 && code != 124)) || { echo "exit code $code: $*"; return 1; }
  expect_match "$*" "$(cat "$work/out.txt")" "$want"
}

case_every_layout_gives_the_corpus_answer() {
  start_coordinator || return 1
  local layout
  for layout in "1 1" "2 1" "1 2" "2 2"; do
    # shellcheck disable=SC2086
    start_gang $layout || return 1
    expect "layout $layout" "$(ask --chat "$question")" "$answer" || return 1
    kill -TERM "$gang"; wait "$gang"; gang=
    for _ in {1..50}; do
      "$bin/trireme" nodes --server "$server" >/dev/null 2>&1 || break
      sleep 0.1
    done
  done
}

# Two stages whose workers have flags of their own: start_unequal "FLAGS" "FLAGS"; sets $gang.
start_unequal() {
  local worker=("$bin/trireme-worker" --coordinator "$server" --model "$model" --pp 2)
  # shellcheck disable=SC2086
  mpirun --oversubscribe --bind-to none -np 1 "${worker[@]}" $1 : -np 1 "${worker[@]}" $2 \
    >"$work/workers.log" 2>&1 &
  gang=$!
  "$bin/trireme" nodes --server "$server" --wait 60 >"$work/nodes.txt"
}

case_unequal_stages_share_the_layers_by_what_they_have() {
  start_coordinator && start_gang 1 1 || return 1
  ask --temperature 0.8 --seed 5 --ignore-eos --max-tokens 200 "Request:" >"$work/one.txt" || return 1
  local flags
  # Of 8 layers, 6 and 2 have twice the cache of 4 and 4, and take 1.23 times as long (the head counts).
  for flags in "--threads 1 --kv-memory 64MiB|--threads 1 --kv-memory 16MiB|stages of 6,2 layers: they differ in room" \
    "--threads 1 --kv-memory 64MiB|--threads 1 --kv-memory 64MiB|stages of 4,4 layers: they have equal speed and room" \
    "--threads 1 --kv-memory 64MiB|--threads 2 --kv-memory 64MiB|stages of " \
    "--threads 1|--threads 2|stages of "; do
    kill -TERM "$gang"; wait "$gang"; gang=
    IFS='|' read -r first second line <<<"$flags"
    start_unequal "$first" "$second" || return 1
    expect_match "why" "$(cat "$work/workers.log")" "rank 0: $line" || return 1
    grep -q 'no other ones fit the memory' "$work/workers.log" && { cat "$work/workers.log"; return 1; }
    ask --temperature 0.8 --seed 5 --ignore-eos --max-tokens 200 "Request:" >"$work/two.txt" || return 1
    cmp "$work/one.txt" "$work/two.txt" || return 1
  done
}

# The mpirun line and its flags, on this machine.
case_planned_commands_compute_what_was_planned() {
  local plan workers running=0
  plan=$("$bin/trireme" plan "$model/config.json" --gpu cpu --device-memory-gb 0.3 \
    --context 256 --concurrency 100 --max-num-batched-tokens 600) || return 1
  # shellcheck disable=SC2046
  start_coordinator $(sed -nE 's/^trireme-coordinator .* --insecure //p' <<<"$plan") || return 1
  workers=$(sed -n '/^mpirun/,/^$/p' <<<"$plan" | tr -d '\\\n')
  workers=${workers/node1:8001/$server}
  workers=${workers/trireme-worker/$bin/trireme-worker --threads 1}
  # shellcheck disable=SC2001
  eval "exec $(sed 's/--host [^ ]*/--oversubscribe/' <<<"$workers")" >"$work/workers.log" 2>&1 &
  gang=$!
  "$bin/trireme" nodes --server "$server" --wait 60 >"$work/nodes.txt" || { cat "$work/workers.log"; return 1; }
  expect "an answer" "$(ask --chat "$question")" "$answer" || return 1
  timeout 100 "$bin/trireme" bench serve --server "$server" --concurrency 100 --num-requests 100 \
    --input-len 16 --output-len 200 >"$work/bench.txt" 2>&1 &
  local bench=$!
  while kill -0 "$bench" 2>/dev/null && ((running < 100)); do
    running=$("$bin/trireme" stats --server "$server" | sed -nE "s/^sequences +([0-9]+) running.*/\1/p")
  done
  wait "$bench"
  expect "sequences at once" "$running" 100
}

case_nodes_shows_a_rank_that_loads() {
  cp -r "$model" "$work/large"
  truncate -s 40G "$work/large/more.safetensors"  # of zeros, which are read and compared
  (cd "$work/large" && sha256sum config.json model.safetensors >SHA256SUMS && echo "$(printf '0%.0s' {1..64})  more.safetensors" >>SHA256SUMS)
  start_coordinator || return 1
  "$bin/trireme-worker" --coordinator "$server" --model "$work/large" --verify-checksum --kv-memory 64MiB \
    >"$work/workers.log" 2>&1 &
  gang=$!
  local shown
  for _ in {1..100}; do
    shown=$("$bin/trireme" nodes --server "$server" 2>&1) && { echo "it serves: $shown"; return 1; }
    [[ $shown == *waits* ]] && break
    sleep 0.1
  done
  expect_match "nodes" "$shown" "loading: rank 0 of 1 on $(hostname): 0.01 of 0.01 GB (100 %), waits" || return 1
  expect_match "its last words" "$shown" "no gang is serving yet" || return 1
  expect_match "nodes --json" "$("$bin/trireme" nodes --server "$server" --json 2>/dev/null)" '"bytes_total":"10' || return 1
  kill -KILL "$gang"; wait "$gang" 2>/dev/null; gang=
  for _ in {1..80}; do
    shown=$("$bin/trireme" nodes --server "$server" 2>&1)
    [[ $shown == *loading* ]] || return 0
    sleep 0.1
  done
  echo "a dead rank goes on loading: $shown"
  return 1
}

case_clients_together_get_what_each_gets_alone() {
  start_coordinator && start_gang 2 1 || return 1
  local i pids=()
  for i in 1 2 3 4 5 6; do
    ask --temperature 0.8 --seed "$i" --ignore-eos --max-tokens 60 "Request $i:" >"$work/alone.$i"
  done
  for i in 1 2 3 4 5 6; do
    ask --temperature 0.8 --seed "$i" --ignore-eos --max-tokens 60 "Request $i:" >"$work/together.$i" &
    pids+=($!)
  done
  wait "${pids[@]}"
  for i in 1 2 3 4 5 6; do cmp "$work/alone.$i" "$work/together.$i" || return 1; done
}

case_a_killed_worker_costs_a_pause_not_the_request() {
  # Slow kernels, so that the worker dies in the middle of the answer.
  start_coordinator && TRIREME_CPU_VARIANT=scalar start_gang 2 1 || return 1
  ask --ignore-eos --max-tokens 700 "Tell me" >"$work/calm.txt" || return 1
  ask --ignore-eos --max-tokens 700 "Tell me" >"$work/killed.txt" &
  local client=$!
  sleep 0.4
  kill -KILL "$(pgrep -P "$gang" -f trireme-worker | head -1)"
  wait "$gang"
  start_gang 1 2 || return 1
  wait "$client" || { echo "the request failed"; return 1; }
  grep -q 'gang lost' "$work/coordinator.log" || { echo "the gang was not lost in time"; return 1; }
  cmp "$work/calm.txt" "$work/killed.txt"
}

case_a_stopped_coordinator_leaves_nothing() {
  start_coordinator && start_gang 2 1 || return 1
  local workers
  workers=$(pgrep -P "$gang" -f trireme-worker)
  kill -INT "$coordinator"
  wait "$coordinator" || { echo "exit code $?"; return 1; }
  coordinator=
  wait "$gang"
  gang=
  for pid in $workers; do
    kill -0 "$pid" 2>/dev/null && { echo "worker $pid still runs"; return 1; }
  done
  return 0
}

case_a_killed_coordinator_ends_workers_that_do_not_wait() {
  start_coordinator && TRIREME_RECONNECT_TIMEOUT_S=0 start_gang 2 1 || return 1
  kill -KILL "$coordinator"; wait "$coordinator" 2>/dev/null; coordinator=
  timeout 30 tail --pid="$gang" -f /dev/null || { echo "the gang goes on"; return 1; }
  gang=
  expect_match "worker's words" "$(cat "$work/workers.log")" "coordinator 127.0.0.1"
}

case_interrupted_client_frees_its_sequence() {
  # Slow kernels: fast ones may have answered before the interrupt.
  start_coordinator && TRIREME_CPU_VARIANT=scalar start_gang 1 1 || return 1
  # A background job of a script starts with SIGINT ignored; a user's does not.
  env --default-signal=INT "$bin/trireme" generate --server "$server" --ignore-eos \
    --max-tokens 900 "Go on" >"$work/interrupted.txt" 2>&1 &
  local client=$!
  sleep 0.3
  kill -INT "$client"
  wait "$client"
  expect "exit code of Ctrl-C" $? 130 || return 1
  local before after
  sleep 0.5  # the step under way at the interrupt may end
  before=$("$bin/trireme" nodes --server "$server" --json)
  sleep 0.5
  after=$("$bin/trireme" nodes --server "$server" --json)
  expect "steps go on without a client" "$before" "$after"
}

case_chat_keeps_the_conversation() {
  start_coordinator && start_gang 1 1 || return 1
  expect_match "two questions" \
    "$(printf 'Hello\n%s\n' "$question" | "$bin/trireme" chat --server "$server")" "$answer"
}

case_bad_requests() {
  start_coordinator || return 1
  ask_fails "trireme-worker" --retry-s 0 "no gang yet" || return 1
  start_gang 1 1 || return 1
  ask_fails "max_tokens is 0" --max-tokens 0 x || return 1
  ask_fails "exceed the context" --max-tokens 100000 x || return 1
  ask_fails "context of 1024" "$(printf 'word %.0s' {1..2000})" || return 1
  ask_fails "temperature is -1" --temperature -1 x || return 1
  printf 'a\xff' >"$work/bytes"
  ask_fails "UTF-8" "$(cat "$work/bytes")" || return 1
  expect_failure "in time" "$bin/trireme" generate --server "$server" --timeout 0.05 \
    --ignore-eos --max-tokens 900 x || return 1
  expect "and it still serves" "$(ask --chat "$question")" "$answer"
}

case_bad_starts() {
  local worker=$bin/trireme-worker two="mpirun --oversubscribe --bind-to none -np 2"
  start_coordinator || return 1
  expect_failure "in use" "$bin/trireme-coordinator" --model "$model" --grpc "$server" || return 1
  expect_failure "--insecure" "$bin/trireme-coordinator" --model "$model" --grpc 0.0.0.0:0 || return 1
  local program
  for program in trireme trireme-coordinator trireme-worker; do
    [[ $("$bin/$program" --version) =~ ^$program\ [0-9]+\.[0-9]+ ]] || { echo "$program tells no version"; return 1; }
  done
  expect_failure "/nowhere" "$bin/trireme-coordinator" --model /nowhere || return 1
  expect_failure "cannot reach" "$bin/trireme" generate --server 127.0.0.1:1 x || return 1
  expect_failure "cannot reach" "$worker" --model "$model" --coordinator 127.0.0.1:1 \
    --connect-timeout-ms 1000 || return 1
  expect_failure "mpirun -np 4" $two "$worker" --model "$model" --tp 4 --coordinator "$server" || return 1
  expect_failure "nearest legal" mpirun --oversubscribe -np 3 "$worker" --model "$model" --tp 3 \
    --coordinator "$server" || return 1
  # One rank that cannot start ends both, with its words.
  cp -r "$model" "$work/broken"
  truncate -s 5000000 "$work/broken/model.safetensors"
  expect_failure "rank 1: --kv-memory of 1000 bytes" mpirun --oversubscribe --bind-to none \
    -np 1 "$worker" --model "$model" --tp 2 --coordinator "$server" : \
    -np 1 "$worker" --model "$model" --tp 2 --coordinator "$server" --kv-memory 1000 || return 1
  expect_failure "rank 1: cannot allocate" mpirun --oversubscribe --bind-to none \
    -np 1 "$worker" --model "$model" --tp 2 --coordinator "$server" : \
    -np 1 prlimit --as=1000000000 "$worker" --model "$model" --tp 2 --coordinator "$server" || return 1
  # Also one that fails before the others know it, or that has other flags.
  expect_failure "rank 1: unsupported: CPU variant" mpirun --oversubscribe --bind-to none \
    -np 1 "$worker" --model "$model" --pp 2 --coordinator "$server" : \
    -np 1 "$worker" --model "$model" --pp 2 --coordinator "$server" --cpu-variant none || return 1
  expect_failure "rank 1: --model is required" mpirun --oversubscribe --bind-to none \
    -np 1 "$worker" --model "$model" --tp 2 --coordinator "$server" : -np 1 "$worker" --tp 2 || return 1
  expect_failure "rank 1: --coordinator HOST:PORT is required" mpirun --oversubscribe --bind-to none \
    -np 1 "$worker" --model "$model" --tp 2 --coordinator "$server" : \
    -np 1 "$worker" --model "$model" --tp 2 || return 1
  expect_failure "$work/broken/model.safetensors" "$worker" --model "$work/broken" --coordinator "$server" || return 1
  expect_failure "rank 1: model.safetensors is" mpirun --oversubscribe --bind-to none \
    -np 1 "$worker" --model "$model" --tp 2 --coordinator "$server" : \
    -np 1 "$worker" --model "$work/broken" --tp 2 --coordinator "$server" || return 1
  expect_failure "architecture" $two "$worker" --model "$source/tests/golden/models/qwen3" --tp 2 \
    --coordinator "$server" || return 1
}

failed=0
passed=0
for name in $(declare -F | awk '/ case_/ {print $3}'); do
  [[ -n ${3:-} && $name != *$3* ]] && continue
  if output=$("$name" 2>&1; code=$?; stop_all >/dev/null 2>&1; exit $code); then
    echo "ok   $name"
    passed=$((passed + 1))
  else
    echo "FAIL $name"
    echo "$output" | sed 's/^/  /'
    tail -n 20 "$work"/coordinator.log "$work"/workers.log | sed 's/^/  | /'
    failed=$((failed + 1))
  fi
done
rm -rf "$work"
echo "serve: $passed passed, $failed failed"
exit $((failed > 0))
