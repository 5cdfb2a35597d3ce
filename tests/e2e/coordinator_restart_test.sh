#!/usr/bin/env bash
# A coordinator that goes and comes back: tests/e2e/coordinator_restart_test.sh BIN-DIR SOURCE-DIR [CASE]
source "${BASH_SOURCE%/*}/../distributed/gangs.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export TRIREME_CPU_VARIANT=scalar  # slow kernels: the coordinator goes in the middle of answers

start_mpi_gang() {  # FLAGS...
  start - workers.log mpirun --oversubscribe --bind-to none -np 2 "$bin/trireme-worker" --coordinator "$server" \
    --model "$model" --threads 1 --kv-memory 64MiB "$@"
  gang=$started
}

kill_coordinator() {
  kill -KILL "$coordinator"
  wait "$coordinator" 2>/dev/null
}

# A new coordinator at the old one's address.
restart_coordinator() {
  start - coordinator.log "$bin/trireme-coordinator" --model "$model" --grpc "$server" "$@"
  coordinator=$started
}

# wait_to_stay LOG [RANKS]: until so many ranks have said there that they wait for a coordinator.
wait_to_stay() {
  for _ in {1..50}; do (($(grep -c 'the weights stay' "$work/$1") >= ${2:-1})) && return; sleep 0.1; done
  echo "they do not wait for a coordinator"
  return 1
}

# Clients that ask for long answers until the coordinator goes.
load() {
  local i
  for i in 1 2 3 4; do
    "$bin/trireme" generate --server "$server" --timeout 120 --retry-s 0 --ignore-eos --max-tokens 900 "$i" >"$work/client$i.txt" 2>&1 &
    clients+=($!)
  done
  sleep 0.5
}

clients_failed() {
  local one
  for one in "${clients[@]}"; do
    wait "$one" && { echo "a client got all of its answer: there was no load"; return 1; }
  done
  clients=()
}

# The workers' pids as the coordinator knows them.
worker_pids() { "$bin/trireme" nodes --server "$server" --json | grep -oE '"pid": *"?[0-9]+' | sort; }

# goes_and_comes_back WHEN LOG...: killed under load and idle, as WHEN says, and the gang is the same, with one load in
# its logs.
goes_and_comes_back() {
  local before under clients=() when=$1
  shift
  before=$(worker_pids)
  [[ -n $before ]] || { echo "no pids"; return 1; }
  for under in $when; do
    [[ $under == load ]] && load
    kill_coordinator
    [[ $under == load ]] && { clients_failed || return 1; }
    [[ $under == idle ]] && sleep 6  # longer than a lease
    restart_coordinator
    serving "" || { echo "they do not serve again ($under)"; return 1; }
    [[ $(worker_pids) == "$before" ]] || { echo "other workers than before ($under)"; return 1; }
    same_answer || return 1
  done
  [[ $(cd "$work" && cat "$@" | grep -c 'loaded .* MB') == 2 ]] || { echo "not one load for each rank"; return 1; }
}

case_a_gang_of_mpirun_keeps_its_weights() {
  expected_answer && start_coordinator - 127.0.0.1 || return 1
  start_mpi_gang --tp 2
  serving "" && goes_and_comes_back "load idle load" workers.log
}

case_a_pipeline_keeps_its_weights() {
  expected_answer && start_coordinator - 127.0.0.1 || return 1
  start_mpi_gang --pp 2
  serving "" && goes_and_comes_back load workers.log
}

case_a_gang_of_the_rendezvous_keeps_its_weights() {
  expected_answer && start_coordinator - 127.0.0.1 || return 1
  start_worker - worker0.log --gang g --tp 2
  start_worker - worker1.log --gang g --tp 2
  serving "" && goes_and_comes_back "idle load" worker0.log worker1.log
}

# As one whose host is frozen, or gone: nothing closes its connections.
case_an_idle_gang_keeps_its_weights_when_its_coordinator_falls_silent() {
  local before
  expected_answer && start_coordinator - 127.0.0.1 || return 1
  start_mpi_gang --tp 2
  serving "" || return 1
  before=$(worker_pids)
  kill -STOP "$coordinator"
  sleep 8
  kill -CONT "$coordinator"  # which still takes them for its gang
  for _ in {1..200}; do grep -q 'serving, epoch 2' "$work/workers.log" && break; sleep 0.1; done
  contains workers.log 'serving, epoch 2' && serving "" && same_answer || return 1
  kill -STOP "$coordinator"
  sleep 5
  kill_coordinator
  restart_coordinator
  serving "" && same_answer || return 1
  [[ $(worker_pids) == "$before" ]] || { echo "other workers than before"; return 1; }
  contains workers.log 'the coordinator is silent'
}

case_a_coordinator_that_is_stopped_may_leave_its_workers() {
  expected_answer && start_coordinator - 127.0.0.1 --keep-workers || return 1
  start_mpi_gang --tp 2
  serving "" || return 1
  local before clients=()
  before=$(worker_pids)
  load
  kill -TERM "$coordinator"
  wait "$coordinator" || { echo "its exit code is $?"; return 1; }
  clients_failed && grep -q 'shutting down' "$work/client1.txt" || return 1
  restart_coordinator --keep-workers
  serving "" && same_answer || return 1
  [[ $(worker_pids) == "$before" ]] || { echo "other workers than before"; return 1; }
}

# Answers that are seeded and not, of one continuation and several: resuming_client NUMBER.
resuming_client() {
  local flags=(--server "$server" --timeout 240 --retry-s 60 --ignore-eos --max-tokens 200 --idempotency-key "key$1")
  (($1 % 2)) && flags+=(--seed "$1")
  (($1 % 3 == 0)) && flags+=(--n 2 --json)
  "$bin/trireme" generate "${flags[@]}" --temperature 0.8 "$1: $question" |
    if (($1 % 3 == 0)); then  # what each continuation says, whatever messages it came in
      python3 -c 'import json, sys
texts, ends = {}, {}
for message in map(json.loads, sys.stdin):
    index = message.get("index", 0)
    texts.setdefault(index, []).extend(message.get("token_ids", []))
    if "finish_reason" in message: ends[index] = ends.get(index, 0) + 1
print(sorted(texts.items()), sorted(ends.items()))'
    else
      cat
    fi
}

# All six, into FILES1.txt and so on: ask_all FILES; their pids are added to `clients`.
ask_all() {
  local number
  for number in 1 2 3 4 5 6; do
    resuming_client "$number" >"$work/$1$number.txt" 2>"$work/$1$number.err" &
    clients+=($!)
  done
}

# The clients whose text is shown as it comes have so many bytes of it.
clients_have() {
  local number
  for number in 1 2 4 5; do
    for _ in {1..600}; do (($(stat -c %s "$work/answer$number.txt") >= $1)) && break; sleep 0.1; done
  done
}

# resumes COORDINATOR-FLAGS...: clients get the answers of an undisturbed coordinator through a kill and a second one.
resumes() {
  local number clients=() kills
  start_coordinator - 127.0.0.1 || return 1
  start_mpi_gang --tp 2
  serving "" || return 1
  ask_all expected
  for number in "${clients[@]}"; do wait "$number" || { echo "undisturbed, a client failed"; return 1; }; done
  stop_all
  clients=()
  start_coordinator - 127.0.0.1 "$@" || return 1
  start_mpi_gang --tp 2
  serving "" || return 1
  ask_all answer
  for kills in 1 2; do
    clients_have $((kills * 80))
    kill_coordinator
    kill -0 "${clients[@]}" 2>/dev/null || { echo "a client was done before the kill"; return 1; }
    restart_coordinator "$@"
    serving "" || { echo "they do not serve again"; return 1; }
  done
  for number in "${clients[@]}"; do wait "$number" || { echo "a client failed"; cat "$work"/answer*.err; return 1; }; done
  for number in 1 2 3 4 5 6; do
    cmp "$work/expected$number.txt" "$work/answer$number.txt" || return 1
    grep -q 'trying again' "$work/answer$number.err" || { echo "client $number was not disturbed"; return 1; }
  done
  cp "$work/coordinator.log" "$work/last.log"
  generated=$("$bin/trireme" stats --server "$server" --json | grep -oE '"tokens_generated": *"?[0-9]+' | grep -oE '[0-9]+$')
}

case_requests_with_a_key_resume_from_the_journal() {
  resumes --journal "$work/journal.db" || return 1
  ((generated < 1600)) || { echo "all was computed anew: $generated tokens"; return 1; }
}

case_requests_with_a_key_resume_without_a_journal() {
  resumes || return 1
}

case_a_file_that_is_no_journal_is_refused() {
  echo "this is some other file, and longer than the header of a database ................................." >"$work/other"
  "$bin/trireme-coordinator" --model "$model" --grpc 127.0.0.1:0 --journal "$work/other" >"$work/refused.log" 2>&1 &&
    { echo "it was taken"; return 1; }
  contains refused.log "is no journal" && grep -q 'some other file' "$work/other"
}

case_a_rank_that_cannot_agree_ends_its_gang() {
  start_coordinator - 127.0.0.1 || return 1
  start_mpi_gang --tp 2
  serving "" || return 1
  kill -STOP "$(pgrep -P "$gang" -f trireme-worker | head -1)"  # its lease ends it
  kill_coordinator
  ends_with_an_error "$gang"
}

case_a_rank_that_is_stopped_while_it_waits_ends_its_gang() {
  start_coordinator - 127.0.0.1 || return 1
  start_mpi_gang --tp 2
  serving "" || return 1
  kill_coordinator
  wait_to_stay workers.log 2 || return 1
  kill -STOP "$(pgrep -P "$gang" -f trireme-worker | head -1)"
  ends_with_an_error "$gang"
}

# Nobody notices before there is a coordinator.
case_a_rank_that_is_killed_while_it_waits_is_missed_by_the_next_coordinator() {
  local left killed
  expected_answer && start_coordinator - 127.0.0.1 || return 1
  start_worker - worker0.log --gang g --tp 2 --rank 0
  left=$started
  start_worker - worker1.log --gang g --tp 2 --rank 1
  killed=$started
  serving "" || return 1
  kill_coordinator
  wait_to_stay worker0.log && wait_to_stay worker1.log || return 1
  kill -KILL "$killed"
  start_worker - again1.log --gang g --tp 2 --rank 1
  restart_coordinator
  for _ in {1..100}; do
    "$bin/trireme" nodes --server "$server" >"$work/waiting.txt" 2>&1
    grep -q -- '-1 waits: 1 of 2 ranks, rank 1 is missing' "$work/waiting.txt" && break
    sleep 0.1
  done
  contains waiting.txt '-1 waits: 1 of 2 ranks, rank 1 is missing' && ends_with_an_error "$left" &&
    contains worker0.log 'rank 1 of 2 has not registered within 15 s' || return 1
  start_worker - again0.log --gang g --tp 2 --rank 0
  serving "" && same_answer
}

case_without_patience_the_workers_end() {
  start_coordinator - 127.0.0.1 || return 1
  start_mpi_gang --tp 2 --reconnect-timeout-s 0
  serving "" || return 1
  kill_coordinator
  ends_with_an_error "$gang" && contains workers.log "coordinator 127.0.0.1" || return 1
  start_coordinator - 127.0.0.1 || return 1
  start_mpi_gang --tp 2 --reconnect-timeout-s 1
  serving "" || return 1
  kill_coordinator
  ends_with_an_error "$gang" && contains workers.log "cannot reach the coordinator at $server within"
}

case_a_waiting_worker_ends_when_told() {
  start_coordinator - 127.0.0.1 && start_worker - worker.log || return 1
  local worker=$started
  serving "" || return 1
  kill_coordinator
  wait_to_stay worker.log || return 1
  kill -TERM "$worker"
  timeout 5 tail --pid="$worker" -f /dev/null || { echo "it goes on"; return 1; }
}

run_cases
