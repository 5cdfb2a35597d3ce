#!/usr/bin/env bash
# Gangs of workers under mpirun: tests/distributed/mpirun_test.sh BIN-DIR SOURCE-DIR [CASE]
source "${BASH_SOURCE%/*}/gangs.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# mpirun with a hostfile over the hosts $a and $b; the launch agent does what ssh would.
start_mpirun() {
  cat >"$work/agent.sh" <<END
#!/bin/bash
[[ \$1 == 10.213.0.2 ]] || { echo "no such host: \$1"; exit 1; }
exec ip netns exec $b unshare --uts --ipc bash -c "hostname $b; \${*:2}"
END
  chmod +x "$work/agent.sh"
  printf '10.213.0.1 slots=1\n10.213.0.2 slots=1\n' >"$work/hosts"
  start "$a" mpirun.log mpirun -np 2 --hostfile "$work/hosts" --bind-to none --mca plm_rsh_agent "$work/agent.sh" \
    --mca oob_tcp_if_include wire0 --mca btl_tcp_if_include wire0 --mca pml ob1 --mca btl tcp,self \
    "$bin/trireme-worker" --model "$1" --threads 1 --kv-memory 64MiB "${@:2}"
}

case_mpirun_with_a_hostfile_over_two_hosts() {
  expected_answer || return 1
  make_hosts a b || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  start_mpirun "$model" --coordinator "$server" --tp 2
  serving "$b" && same_answer "$b" && contains mpirun.log "links, measured for" || return 1
  contains coordinator.log "(tp 2, pp 1, mpi)" || return 1
  for rank in 0 1; do
    grep -qE "rank $rank: ready after [0-9.]+ s: gang [0-9.]+, settings .*link test .*weights .*coordinator" \
      "$work/mpirun.log" || { echo "rank $rank does not say where its start went"; return 1; }
  done
}

case_ranks_that_differ_end() {
  cp -r "$model" "$work/other" && echo >>"$work/other/config.json" || return 1
  local worker=("$bin/trireme-worker" --tp 2 --offline-bench)
  start - mpirun.log mpirun --oversubscribe -np 1 "${worker[@]}" --model "$model" : \
    -np 1 "${worker[@]}" --model "$work/other"
  ends_with_an_error "$started" || return 1
  grep -qE "rank 1: config.json is .* on $(hostname) but .* on $(hostname) \(rank 0\)" "$work/mpirun.log" ||
    { echo "the difference is not named"; return 1; }
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
  ends_with_an_error "$started" && contains mpirun.log "rank 0: $unread: no weights"
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

run_cases
