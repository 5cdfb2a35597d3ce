#!/usr/bin/env bash
# Gangs of workers under mpirun: tests/distributed/mpirun_test.sh BIN-DIR SOURCE-DIR [CASE]
source "${BASH_SOURCE%/*}/gangs.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# start_mpirun RANKS HOW FLAGS...: mpirun with a hostfile and the options HOW over the hosts $a and $b, half of the ranks
# on each.
start_mpirun() {
  local ranks=$1 how=$2
  shift 2
  make_hostfile $((ranks / 2)) a b
  # shellcheck disable=SC2086 # HOW is words
  start "$a" mpirun.log mpirun -np "$ranks" $how --hostfile "$work/hosts" --bind-to none \
    "${over_wires[@]}" ${data:---mca btl_tcp_if_include wire0} \
    "$bin/trireme-worker" --coordinator "$server" --model "$model" --threads 1 --kv-memory 64MiB "$@"
}

case_mpirun_with_a_hostfile_over_two_hosts() {
  expected_answer || return 1
  make_hosts a b || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  start_mpirun 2 "" --tp 2
  serving "$b" && same_answer "$b" && contains mpirun.log "links, measured for" || return 1
  contains coordinator.log "(tp 2, pp 1, mpi)" || return 1
  contains mpirun.log "tensor parallelism goes over the network in stage 0 (rank 0 on $a, rank 1 on $b)" || return 1
  for rank in 0 1; do
    grep -qE "rank $rank: ready after [0-9.]+ s: gang [0-9.]+, settings .*link test .*weights .*coordinator" \
      "$work/mpirun.log" || { echo "rank $rank does not say where its start went"; return 1; }
  done
}

# Dealt out to the hosts in turns, ranks are numbered anew, so that tensor parallelism stays inside a host.
case_ranks_are_placed_by_the_topology() {
  expected_answer || return 1
  make_hosts a b || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  start_mpirun 4 "--map-by node" --tp 2 --pp 2
  serving "$b" && same_answer "$b" || return 1
  contains mpirun.log "stage 0: ranks 0-1 on $a; stage 1: ranks 2-3 on $b" || return 1
  contains coordinator.log "(tp 2, pp 2, mpi)" && ! grep -q "goes over the network" "$work/mpirun.log"
}

case_ranks_stay_as_given() {
  expected_answer || return 1
  make_hosts a b || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  start_mpirun 4 "--map-by node" --tp 2 --pp 2 --placement as-given
  serving "$b" && same_answer "$b" || return 1
  contains mpirun.log "stage 0: rank 0 on $a, rank 1 on $b; stage 1: rank 2 on $a, rank 3 on $b"
}

# bad_network_changes_no_token DELAY_MS LOSS_PERCENT MBIT_S FLAGS...: slower, not different.
bad_network_changes_no_token() {
  local tokens=40
  expected_answer || return 1
  make_hosts a b || return
  replace_cable b "${@:1:3}" || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  start_mpirun 2 "" "${@:4}"
  serving "$a" && same_answer "$a" || return 1
  kill -TERM "$started"  # while there is a cable
  timeout 20 tail --pid="$started" -f /dev/null || { echo "mpirun goes on"; return 1; }
}

case_a_delay_changes_no_token() { bad_network_changes_no_token 5 0 0 --tp 2; }

case_loss_changes_no_token() { bad_network_changes_no_token 0 1 0 --tp 2; }

case_a_low_rate_changes_no_token() { bad_network_changes_no_token 0 0 100 --tp 2; }

case_delay_loss_and_a_low_rate_change_no_token() { bad_network_changes_no_token 5 1 100 --pp 2; }

case_ranks_that_differ_end() {
  cp -r "$model" "$work/other" && echo >>"$work/other/config.json" || return 1
  local worker=("$bin/trireme-worker" --tp 2 --offline-bench)
  start - mpirun.log mpirun --oversubscribe -np 1 "${worker[@]}" --model "$model" : \
    -np 1 "${worker[@]}" --model "$work/other"
  ends_with_an_error "$started" || return 1
  grep -qE "rank 1: config.json is .* on $(hostname) but .* on $(hostname) \(rank 0\)" "$work/mpirun.log" ||
    { echo "the difference is not named"; return 1; }
}

# Two networks; what goes over each is counted.
case_the_data_takes_the_interface_that_is_asked_for() {
  expected_answer || return 1
  make_hosts a b || return
  data_cable a b || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  data=" " start_mpirun 2 "" --tp 2 --net-interface data0
  serving "$b" || return 1
  local before=$(bytes_sent "$b" wire0) data_before=$(bytes_sent "$b" data0)
  same_answer "$b" || return 1
  grep -qE "MPI between hosts: TCP at data0, [0-9a-zM/ ]+: OMPI_MCA_btl_tcp_if_include=data0" "$work/mpirun.log" ||
    { echo "the choice is not logged"; return 1; }
  (($(bytes_sent "$b" data0) - data_before > 5 * ($(bytes_sent "$b" wire0) - before))) ||
    { echo "data0: $(bytes_sent "$b" data0) - $data_before; wire0: $(bytes_sent "$b" wire0) - $before"; return 1; }
}

# The one that leads to the coordinator.
case_the_data_takes_the_coordinators_interface_by_default() {
  expected_answer || return 1
  make_hosts a b || return
  data_cable a b || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  data=" " start_mpirun 2 "" --tp 2
  serving "$b" && same_answer "$b" || return 1
  (($(grep -cE "MPI between hosts: TCP at wire0, [0-9a-zM/ ]+: OMPI_MCA_btl_tcp_if_include=wire0, UCX_NET_DEVICES=wire0" \
    "$work/mpirun.log") == 2)) || { echo "the choice is not logged"; return 1; }
  (($(bytes_sent "$b" wire0) > 5 * $(bytes_sent "$b" data0))) ||
    { echo "data0: $(bytes_sent "$b" data0); wire0: $(bytes_sent "$b" wire0)"; return 1; }
}

# On one host, MPI's data goes through shared memory, wherever the coordinator listens.
case_ranks_of_one_host_need_no_network() {
  make_hosts a || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  start "$a" mpirun.log mpirun -np 2 --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 "$bin/trireme-worker" \
    --coordinator "$server" --model "$model" --threads 1 --kv-memory 64MiB --tp 2
  serving "$a" && contains mpirun.log "MPI between hosts: TCP at wire0" || return 1
  local before=$(bytes_sent "$a" lo)
  ask "$a" >/dev/null || return 1
  # A token's all-reduces alone are more than a kilobyte.
  (($(bytes_sent "$a" lo) - before < 1000 * tokens)) || { echo "lo: $(bytes_sent "$a" lo) - $before"; return 1; }
}

bytes_sent() { ip netns exec "$1" cat "/sys/class/net/$2/statistics/tx_bytes"; }

case_networks_that_mean_nothing_end_all() {
  make_hosts a b || return
  server=10.213.0.1:9
  start_mpirun 2 "" --tp 2 --net-interface nowhere0
  ends_with_an_error "$started" && contains mpirun.log "rank 0: --net-interface nowhere0: this host has no such" || return 1
  start_mpirun 2 "" --tp 2 --net-interface lo
  ends_with_an_error "$started" && contains mpirun.log "lo is a loopback interface, but the gang has several" || return 1
  start_mpirun 2 "" --tp 2 --require-rdma
  ends_with_an_error "$started" && contains mpirun.log "unsupported: --require-rdma under mpirun" || return 1
  (($(grep -c 'require-rdma under' "$work/mpirun.log") == 1)) || { echo "said more than once"; return 1; }
  start - alone.log "$bin/trireme-worker" --coordinator "$server" --model "$model" --net-interface lo
  ends_with_an_error "$started" && contains alone.log "are for the ranks of a gang"
}

# Rank 0 is inside MPI_Init, as rank 1 is late; nobody else hears of either yet.
case_a_rank_that_is_stopped_while_the_gang_forms_ends_all() {
  local worker=("$bin/trireme-worker" --coordinator 127.0.0.1:9 --model "$model" --tp 2) stopped
  start - mpirun.log mpirun --oversubscribe --bind-to none -np 1 "${worker[@]}" : \
    -np 1 bash -c 'sleep 5; exec "$@"' late "${worker[@]}"
  for _ in {1..50}; do stopped=$(pgrep -P "$started" trireme-worker) && break; sleep 0.1; done
  sleep 1
  kill -STOP "$stopped" || { echo "rank 0 is not there"; return 1; }
  ends_with_an_error "$started" || { kill -KILL "$stopped" "$started"; return 1; }
  ! kill -0 "$stopped" 2>/dev/null || { echo "rank 0 is left"; return 1; }
}

# Rank 0 alone has the weights.
case_rank_0_sends_the_weights() {
  expected_answer && directory_without_weights && start_coordinator - 127.0.0.1 || return 1
  local worker=("$bin/trireme-worker" --coordinator "$server" --threads 1 --kv-memory 64MiB --tp 2 --pp 2 --load broadcast)
  start - mpirun.log mpirun --oversubscribe --bind-to none -np 1 "${worker[@]}" --model "$model" : \
    -np 3 "${worker[@]}" --model "$unread"
  serving "" && same_answer && contains coordinator.log "(tp 2, pp 2, mpi)"
}

case_weights_that_rank_0_lacks_end_all() {
  directory_without_weights || return 1
  start - mpirun.log mpirun --oversubscribe --bind-to none -np 4 "$bin/trireme-worker" --offline-bench --tp 2 --pp 2 \
    --load broadcast --model "$unread"
  ends_with_an_error "$started" && contains mpirun.log "rank 0: $unread: no weights" &&
    contains mpirun.log "--placement as-given keeps the launcher's numbers"
}

# Once with right digests, once with a wrong one.
case_damaged_weights_end_all() {
  cp -r "$model" "$work/copy" && (cd "$work/copy" && sha256sum config.json ./*.safetensors >SHA256SUMS) || return 1
  local worker=("$bin/trireme-worker" --offline-bench --tp 2 --load broadcast --verify-checksum --model "$work/copy"
    --bench-prompt-tokens 4 --bench-decode-tokens 2 --max-model-len 64 --kv-memory 4MiB)
  mpirun --oversubscribe --bind-to none -np 2 "${worker[@]}" >"$work/mpirun.log" 2>&1 || { echo "it ended"; return 1; }
  contains mpirun.log "checksums" || return 1
  printf x | dd of="$work/copy/model.safetensors" bs=1 seek=1000000 conv=notrunc status=none
  start - mpirun.log mpirun --oversubscribe --bind-to none -np 2 "${worker[@]}"
  ends_with_an_error "$started" && contains mpirun.log "rank 0: $work/copy/model.safetensors: its SHA-256 is"
}

case_ways_to_load_that_differ_end_all() {
  local worker=("$bin/trireme-worker" --tp 2 --offline-bench --model "$model")
  start - mpirun.log mpirun --oversubscribe -np 1 "${worker[@]}" : -np 1 "${worker[@]}" --load broadcast
  ends_with_an_error "$started" && contains mpirun.log "rank 1: --load is broadcast"
}

# Drained, it is started again and again, with growing pauses, and told so while it loads.
case_a_kept_gang_of_a_drained_host_ends_while_it_loads() {
  start_coordinator - 127.0.0.1 || return 1
  start - keeper.log "$source/scripts/keep_mpirun.sh" --oversubscribe --bind-to none -np 2 "$bin/trireme-worker" \
    --coordinator "$server" --model "$model" --threads 1 --kv-memory 64MiB --tp 2 --link-test on
  local keeper=$started
  serving "" && sleep 2 || return 1
  "$bin/trireme" drain "$(hostname)" --server "$server" >"$work/drain.log" 2>&1 && contains drain.log drained || return 1
  for _ in {1..100}; do grep -q 'again in 1000 ms' "$work/keeper.log" && break; sleep 0.1; done
  contains keeper.log "again in 1000 ms" || return 1
  contains keeper.log "stopping: host $(hostname) is drained" && contains keeper.log "mpirun has ended with exit code 0; again in 0 ms" || return 1
  "$bin/trireme" uncordon "$(hostname)" --server "$server" && serving "" || return 1
  kill -TERM "$keeper" && timeout 20 tail --pid="$keeper" -f /dev/null && wait "$keeper"
}

case_mpirun_is_not_kept_where_it_may_not_run() {
  ((EUID == 0)) || return 0
  start - keeper.log env -u OMPI_ALLOW_RUN_AS_ROOT "$source/scripts/keep_mpirun.sh" -np 1 true
  ends_with_an_error "$started" && contains keeper.log "mpirun does not run as root: use another user"
}

run_cases
