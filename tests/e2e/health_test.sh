#!/usr/bin/env bash
# What the ranks say of their health: tests/e2e/health_test.sh BIN-DIR SOURCE-DIR [CASE]
source "${BASH_SOURCE%/*}/../distributed/gangs.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# expect_health ADDRESS SERVICE STATUS: soon.
expect_health() {
  local got
  for _ in {1..100}; do
    got=$("$bin/health_check" "$1" "$2")
    [[ $got == "$3" ]] && return
    sleep 0.1
  done
  echo "$2 of $1 is $got, not $3"
  return 1
}

# Sets $health to where the worker of that log says it is.
health_in() {
  for _ in {1..100}; do
    health=$(sed -nE 's/.*health at ([0-9.]+:[0-9]+).*/\1/p' "$work/$1" | head -1)
    [[ -n $health ]] && return
    sleep 0.1
  done
  echo "$1 names no health address"
  return 1
}

case_a_rank_is_alive_from_the_start_and_ready_with_its_gang() {
  start_coordinator - 127.0.0.1 || return 1
  start_worker - worker0.log --gang g --tp 2 --health 127.0.0.1:0
  local first=$started
  health_in worker0.log || return 1
  local health0=$health
  expect_health "$health0" liveness SERVING && expect_health "$health0" readiness NOT_SERVING || return 1
  start_worker - worker1.log --gang g --tp 2 --health 127.0.0.1:0
  serving "" && health_in worker1.log || return 1
  for one in "$health0" "$health"; do
    expect_health "$one" readiness SERVING && expect_health "$one" "" SERVING || return 1
  done
  ask "" >/dev/null || return 1
  expect_health "$health0" readiness SERVING && expect_health "$health0" liveness SERVING || return 1
  kill -TERM "$first"  # drains, and the gang ends
  timeout 20 tail --pid="$first" -f /dev/null || { echo "the rank goes on"; return 1; }
}

case_a_second_sigterm_ends_a_rank_at_once() {
  start_coordinator - 127.0.0.1 || return 1
  start_worker - worker.log --gang g
  serving "" || return 1
  kill -STOP "$coordinator"  # so that nobody answers the first, which asks to be let go
  sleep 0.2
  local code
  kill -TERM "$started"
  sleep 0.3
  kill -0 "$started" || { echo "the rank does not wait for the coordinator"; return 1; }
  kill -TERM "$started"
  timeout 2 tail -s 0.05 --pid="$started" -f /dev/null || { echo "the rank goes on"; return 1; }
  wait "$started"
  code=$?
  kill -CONT "$coordinator"
  ((code == 143)) || { echo "its exit code is $code"; return 1; }
}

# While it waits for a worker that is stopped.
case_a_second_sigterm_ends_a_coordinator_at_once() {
  start_coordinator - 127.0.0.1 && start_worker - worker.log || return 1
  local worker=$started code
  serving "" || return 1
  kill -STOP "$worker"
  kill -TERM "$coordinator"
  for _ in {1..50}; do grep -q 'stopping: SIGTERM' "$work/coordinator.log" && break; sleep 0.02; done
  sleep 0.1
  kill -TERM "$coordinator"
  wait "$coordinator"
  code=$?
  kill -KILL "$worker"
  [[ $code == 143 ]] || { echo "its exit code is $code"; return 1; }
}

case_ranks_of_mpirun_have_ports_in_a_row() {
  start_coordinator - 127.0.0.1 || return 1
  local port=$((20000 + RANDOM % 10000))
  start - workers.log mpirun --oversubscribe --bind-to none -np 2 "$bin/trireme-worker" --coordinator "$server" \
    --model "$model" --threads 1 --kv-memory 64MiB --tp 2 --health "127.0.0.1:$port"
  serving "" || return 1
  expect_health "127.0.0.1:$port" readiness SERVING && expect_health "127.0.0.1:$((port + 1))" readiness SERVING
}

case_an_open_address_needs_insecure() {
  start_coordinator - 127.0.0.1 || return 1
  start_worker - worker.log --health 0.0.0.0:0
  ends_with_an_error "$started" && contains worker.log "--insecure"
}

# Without mpirun every rank has its own log, and each says which rank failed and why.
case_a_failed_init_ends_all_ranks_with_its_message() {
  start_coordinator - 127.0.0.1 || return 1
  start_worker - worker0.log --gang g --tp 2 --rank 0
  local first=$started
  start - worker1.log "$bin/trireme-worker" --coordinator "$server" --model "$model" --gang g --tp 2 --rank 1 \
    --kv-memory 1000
  ends_with_an_error "$started" && ends_with_an_error "$first" || return 1
  contains worker0.log "rank 1: --kv-memory of 1000 bytes" && contains worker1.log "rank 1: --kv-memory of 1000 bytes"
}

run_cases
