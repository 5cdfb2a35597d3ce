#!/usr/bin/env bash
# Gangs without mpirun: tests/distributed/rendezvous_test.sh BIN-DIR SOURCE-DIR [CASE]
source "${BASH_SOURCE%/*}/gangs.sh"

case_ranks_are_assigned_and_the_answer_is_that_of_one_rank() {
  expected_answer || return 1
  start_coordinator - 127.0.0.1 || return 1
  start_worker - worker0.log --gang g --tp 2
  start_worker - worker1.log --gang g --tp 2
  serving "" && same_answer || return 1
  contains nodes.txt "   1   1   0" && contains coordinator.log "(tp 2, pp 1, ucx)"
}

case_four_ranks_of_which_one_is_fixed() {
  expected_answer || return 1
  start_coordinator - 127.0.0.1 || return 1
  start_worker - worker3.log --gang g --tp 2 --pp 2 --rank 3
  for _ in {1..100}; do
    "$bin/trireme" nodes --server "$server" >"$work/waiting.txt" 2>&1
    grep -q waits "$work/waiting.txt" && break
    sleep 0.1
  done
  contains waiting.txt "gang g waits: 1 of 4 ranks, ranks 0, 1, 2 are missing" || return 1
  for i in 0 1 2; do start_worker - "worker$i.log" --gang g --tp 2 --pp 2; done
  serving "" && same_answer || return 1
  contains worker3.log "rank 3 of 4" && contains coordinator.log "(tp 2, pp 2, ucx)"
}

# It alone has them.
case_rank_0_sends_the_weights() {
  expected_answer && directory_without_weights && start_coordinator - 127.0.0.1 || return 1
  local flags=(--gang g --tp 2 --pp 2 --load broadcast) i
  start_worker - worker0.log "${flags[@]}" --rank 0
  for i in 1 2 3; do
    start - "worker$i.log" "$bin/trireme-worker" --coordinator "$server" --model "$unread" --threads 1 \
      --kv-memory 64MiB "${flags[@]}"
  done
  serving "" && same_answer && contains coordinator.log "(tp 2, pp 2, ucx)"
}

case_weights_that_rank_0_lacks_end_all() {
  directory_without_weights && start_coordinator - 127.0.0.1 || return 1
  local workers=() i
  for i in 0 1; do
    start - "worker$i.log" "$bin/trireme-worker" --coordinator "$server" --model "$unread" --threads 1 \
      --gang g --tp 2 --load broadcast
    workers+=("$started")
  done
  for i in 0 1; do
    ends_with_an_error "${workers[$i]}" && contains "worker$i.log" "rank 0: $unread: no weights" || return 1
  done
}

case_uneven_stages_change_no_token() {
  expected_answer || return 1
  start_coordinator - 127.0.0.1 || return 1
  start_worker - worker0.log --gang g --pp 2 --stage-layers 7,1
  start_worker - worker1.log --gang g --pp 2 --stage-layers 7,1
  serving "" && same_answer || return 1
  start_worker - other.log --gang h --pp 2 --stage-layers 3,2
  start_worker - another.log --gang h --pp 2 --stage-layers 3,2
  ends_with_an_error "$started" || return 1
  contains another.log "--stage-layers 3,2 does not fit this LlamaForCausalLM: it must be --pp 2 numbers"
}

# A peer would wait for it, and so would who waits for the gang.
case_a_rank_that_is_stopped_before_it_serves_is_killed() {
  expected_answer && start_coordinator - 127.0.0.1 || return 1
  start_worker - stopped.log --gang g --tp 2
  local stopped=$started
  for _ in {1..50}; do grep -q 'waiting for all' "$work/stopped.log" && break; sleep 0.1; done
  sleep 5  # it goes on, for longer than a lease
  kill -STOP "$stopped" || { echo "it has ended by itself"; return 1; }
  timeout 20 tail --pid="$stopped" -f /dev/null || { echo "it is still there"; return 1; }
  start_worker - worker0.log --gang g --tp 2
  start_worker - worker1.log --gang g --tp 2
  serving "" && same_answer
}

case_contradictions_are_named() {
  start_coordinator - 127.0.0.1 || return 1
  start_worker - first.log --gang g --tp 2 --rank 0
  local first=$started
  for _ in {1..50}; do grep -q 'waiting for all' "$work/first.log" && break; sleep 0.1; done
  sleep 0.3  # it has said so just before it calls
  start_worker - other.log --gang g --tp 4
  ends_with_an_error "$started" || return 1
  contains other.log "gang g: --tp is 4 on $(hostname) but 2 on $(hostname)" || return 1
  start_worker - second.log --gang g --tp 2 --rank 0 # the same one, started anew
  ends_with_an_error "$first" && contains first.log "has taken the place of this one, --rank 0" || return 1
  start_worker - other.log --gang g --tp 2 --dtype float32
  ends_with_an_error "$started" && contains other.log "--dtype is float32" || return 1
  cp -r "$model" "$work/other" && echo >>"$work/other/config.json" || return 1
  start - other.log "$bin/trireme-worker" --coordinator "$server" --model "$work/other" --gang g --tp 2
  ends_with_an_error "$started" && contains other.log "config.json is" || return 1
  start_worker - other.log --gang g --tp 2 --rank 2
  ends_with_an_error "$started" && contains other.log "--rank 2 of 2" || return 1
  start_worker - other.log --gang g --tp 2 --net-interface nowhere0
  ends_with_an_error "$started" && contains other.log "nowhere0" || return 1
  if [[ ! -d /sys/class/infiniband ]]; then
    start_worker - other.log --gang g --tp 2 --require-rdma
    ends_with_an_error "$started" && contains other.log "no active RDMA port" || return 1
  fi
  start_worker - other.log --gang g --tp 2 --cpu-variant scalar # and the second still waits
  serving "" && contains other.log "the CPU's instruction set is scalar on $(hostname) but"
}

# The others end, and what is started anew is the gang's next incarnation.
case_a_killed_rank_ends_the_others_and_the_gang_forms_again() {
  expected_answer || return 1
  start_coordinator - 127.0.0.1 || return 1
  local workers=() i
  for i in 0 1 2 3; do start_worker - "worker$i.log" --gang g --tp 2 --pp 2; workers+=("$started"); done
  serving "" || return 1
  ask "" >"$work/answer.txt" &
  local client=$!
  sleep 0.1
  kill -KILL "${workers[1]}"
  for i in 0 2 3; do ends_with_an_error "${workers[$i]}" || return 1; done
  for i in 0 1 2 3; do start_worker - "worker$i.log" --gang g --tp 2 --pp 2; done
  serving "" || return 1
  wait "$client" || { echo "the request failed"; return 1; }
  cmp "$work/expected.txt" "$work/answer.txt" || return 1
  contains coordinator.log "incarnation 2" && same_answer
}

case_a_rank_that_the_coordinator_refuses_ends_the_others() {
  start_coordinator - 127.0.0.1 --max-model-len 1024 || return 1
  start_worker - worker0.log --gang g --tp 2 --rank 0
  local first=$started
  start - worker1.log "$bin/trireme-worker" --coordinator "$server" --model "$model" --threads 1 --gang g --tp 2 \
    --rank 1 --kv-memory 1MiB
  ends_with_an_error "$first" && ends_with_an_error "$started" || return 1
  for i in 0 1; do contains "worker$i.log" "serves a context of" || return 1; done
}

case_a_stopped_coordinator_sends_those_that_wait_away() {
  start_coordinator - 127.0.0.1 && start_worker - worker.log --gang g --tp 2 || return 1
  for _ in {1..50}; do grep -q 'waiting for all' "$work/worker.log" && break; sleep 0.1; done
  sleep 0.3
  kill -TERM "$coordinator"
  ends_with_an_error "$started"
}

# With the worker whose CUDA kernels run on the CPU.
case_nccl_is_told_the_network() {
  start_coordinator - 127.0.0.1 || return 1
  local rank
  for rank in 0 1; do
    start - "worker$rank.log" env -u NCCL_NET "$bin/trireme-worker-emulated" --coordinator "$server" --model "$model" \
      --threads 1 --kv-memory 64MiB --gang g --tp 2 --device cuda --net-interface lo
  done
  for _ in {1..100}; do grep -q NCCL: "$work/worker0.log" && break; sleep 0.1; done
  contains worker0.log "NCCL: NCCL_SOCKET_IFNAME==lo, NCCL_IB_DISABLE=1" || return 1
  start - refused.log env NCCL_NET=Socket "$bin/trireme-worker-emulated" --coordinator "$server" --model "$model" \
    --gang h --tp 2 --device cuda --require-rdma
  ends_with_an_error "$started" && grep -q -e "no active RDMA port" -e "contradicts NCCL_NET=Socket" "$work/refused.log"
}

case_tensor_parallel_over_two_hosts() {
  expected_answer || return 1
  make_hosts a b || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  start_worker "$b" worker1.log --gang g --tp 2
  start_worker "$a" worker0.log --gang g --tp 2
  serving "$b" && same_answer "$b" || return 1
  contains worker0.log "rank 0 of 2, 0 of 1 on $a; between hosts: TCP at wire0" || return 1
  contains worker1.log "rank 1 of 2, 0 of 1 on $b" || return 1
  contains worker0.log "links, measured for" || return 1
}

# An adapter that the route to the coordinator does not lead over.
case_rdma_ports_elsewhere_are_named() {
  make_hosts a || return
  local port=$work/class/infiniband/mlx5_0/ports/1
  mkdir -p "$port" && echo "4: ACTIVE" >"$port/state" || return 1
  server=10.213.0.1:9
  local worker=(unshare --mount bash -c 'mount --bind "$0" /sys/class && exec "$@"' "$work/class" "$bin/trireme-worker"
    --coordinator "$server" --model "$model" --gang g --tp 2 --connect-timeout-ms 100)
  start "$a" worker.log "${worker[@]}" --require-rdma
  ends_with_an_error "$started" || return 1
  contains worker.log "no active RDMA port at wire0, but mlx5_0:1: name one with --net-interface" || return 1
  start "$a" worker.log "${worker[@]}"
  ends_with_an_error "$started" && contains worker.log "RDMA ports lie idle: mlx5_0:1, while wire0 leads to the coordinator"
}

case_loopback_between_hosts_is_refused() {
  make_hosts a b || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  start_worker "$a" worker0.log --gang g --tp 2 --net-interface lo
  local first=$started
  start_worker "$b" worker1.log --gang g --tp 2 --net-interface lo
  ends_with_an_error "$first" && ends_with_an_error "$started" && contains worker0.log "loopback interface lo"
}

# One of three hosts; the arguments of replace_cable.
warns_of_a_host_whose_cable_has() {
  make_hosts a b c || return
  replace_cable b "$@" || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  local host rank=0
  for host in "$a" "$b" "$c"; do
    start_worker "$host" "worker$rank.log" --gang g --pp 3 --rank $rank
    rank=$((rank + 1))
  done
  serving "$a" && contains worker0.log "rank 1 ($b) is slow: 2 of its 2 links"
}

case_the_start_test_warns_of_a_low_rate() { warns_of_a_host_whose_cable_has 0 0 100; }

case_the_start_test_warns_of_a_long_delay() { warns_of_a_host_whose_cable_has 5 0 0; }

# A cable on which the test takes seconds.
case_a_rank_that_dies_in_the_start_test_ends_the_others() {
  make_hosts a b c || return
  replace_cable b 0 0 1 || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  start_worker "$a" worker0.log --gang g --pp 3 --rank 0
  local others=("$started")
  start_worker "$c" worker2.log --gang g --pp 3 --rank 2
  others+=("$started")
  start_worker "$b" worker1.log --gang g --pp 3 --rank 1
  for _ in {1..100}; do grep -q 'incarnation' "$work/worker1.log" && break; sleep 0.1; done
  sleep 0.5
  kill -KILL "$started"
  ends_with_an_error "${others[0]}" && ends_with_an_error "${others[1]}" || return 1
  contains worker0.log "trireme-worker: rank 0: " && contains worker2.log "trireme-worker: rank 2: "
}

# 5 ms, 1 % of loss and 100 Mbit/s: slower, not different.
# While all wait for a slow network. The host that is cut off ends when it is back.
case_a_host_that_is_cut_off_before_it_serves_ends_the_others() {
  make_hosts a b c || return
  replace_cable c 100 0 0 || return
  local cable=${pids[-1]} first
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  start_worker "$b" worker0.log --gang g --tp 2 --rank 0 --link-test on
  first=$started
  start_worker "$c" worker1.log --gang g --tp 2 --rank 1 --link-test on
  for _ in {1..200}; do
    grep -q 'loading: rank 1' <(ip netns exec "$a" "$bin/trireme" nodes --server "$server" 2>&1) && break
    sleep 0.02
  done
  kill -USR1 "$cable" && kill -USR2 "$cable"
  ends_with_an_error "$first" && contains worker0.log "stopping: rank 1 ($c)" || return 1
  kill -0 "$started" || { echo "the rank that is cut off has ended"; return 1; }
  kill -HUP "$cable"
  ends_with_an_error "$started"
}

case_a_bad_network_changes_no_token() {
  expected_answer || return 1
  make_hosts a b || return
  replace_cable b 5 1 100 || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  start_worker "$a" worker0.log --gang g --tp 2
  start_worker "$b" worker1.log --gang g --tp 2
  serving "$a" && same_answer "$a"
}

run_cases
