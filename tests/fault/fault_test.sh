#!/usr/bin/env bash
# Faults under 16 concurrent streams: tests/fault/fault_test.sh BIN-DIR SOURCE-DIR [CASE]
# FAULTS multiplies the number of faults of each case (1).
here=$(dirname "$0")
source "$here/../distributed/gangs.sh"
built=$bin
faults=${FAULTS:-1}
if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

# A server that starts its workers anew: serve FLAGS...; sets $server.
serve() {
  local port
  for port in $((20000 + RANDOM % 10000)) $((20000 + RANDOM % 10000)) $((20000 + RANDOM % 10000)); do
    server=127.0.0.1:$port
    start - serve.log "$bin/trireme" serve "$model" --grpc "$server" --kv-memory 64MiB "$@"
    serving "" && return
    wait "$started"
  done
  echo "trireme serve did not start"
  return 1
}

# A worker of a gang over hosts, started anew whenever it ends, as Kubernetes does.
keep_worker() {  # NAMESPACE LOG FLAGS...
  local namespace=$1 log=$2
  shift 2
  start "$namespace" "$log" bash -c 'trap "kill -KILL \$child; exit" TERM
    while :; do "$@" & child=$!; wait "$child"; sleep 0.2; done' keep \
    "$bin/trireme-worker" --coordinator "$server" --model "$model" --threads 1 --kv-memory 64MiB "$@"
}

# drive NAMESPACE FAULTS FLAGS...: the driver says what it has found.
drive() {
  local namespace=$1 count=$2
  shift 2
  ${namespace:+ip netns exec "$namespace"} "$bin/fault_driver" --server "$server" --faults $((count * faults)) "$@" \
    >"$work/driver.txt" 2>&1
  local code=$?
  cat "$work/driver.txt"
  ((code == 0)) && tail -2 "$work/driver.txt" >&3
  return $code
}

case_killed_ranks_tp2() { serve --tp 2 && drive "" 10 --kind kill; }
case_killed_ranks_pp2() { serve --pp 2 && drive "" 6 --kind kill --seed 1; }
case_killed_lone_rank() { serve && drive "" 4 --kind kill --seed 2; }
case_killed_again_during_recovery() { serve --tp 2 && drive "" 4 --kind kill-again; }
case_told_to_end() { serve --tp 2 && drive "" 4 --kind term; }
case_stopped_ranks_write_nothing_when_they_wake() {
  serve --tp 2 && drive "" 3 --kind stop --duration-ms-max $((faults > 1 ? 30000 : 7000))
}

# A request that crashes every rank that computes it fails, and only that.
case_poison_request_fails_alone() {
  local bin=$work/bin
  mkdir -p "$bin"
  cp "$built/trireme" "$built/trireme-coordinator" "$bin" && cp "$built/poisoned_worker" "$bin/trireme-worker"
  serve --tp 2 || return 1
  cat >"$work/poison.sh" <<END
[[ \$1 == end ]] && exit
"$bin/trireme" generate --server "$server" --timeout 120 --seed 666 --max-tokens 4 Poison >"$work/poison.txt" 2>&1
code=\$?
cat "$work/poison.txt"
((code != 0)) && grep -q "times in a row" "$work/poison.txt"
END
  bin=$built drive "" 1 --kind command --command "bash $work/poison.sh" --duration-ms-min 1 --duration-ms-max 1
}

# A coordinator, and a gang of two ranks on hosts of their own; the cable of the second is the bad
# one. gang_over_hosts LAYOUT DELAY_MS LOSS_PERCENT MBIT_S
gang_over_hosts() {
  local layout=$1
  shift
  make_hosts a b c || return
  replace_cable c "$@" || return
  cable=${pids[-1]}
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  keep_worker "$b" worker-b.log --gang g "$layout" 2
  keep_worker "$c" worker-c.log --gang g "$layout" 2
  serving "$a"
}

# partition SIGNALS...: the faults are cuts of the bad cable, by these signals to it. One alone is
# longer than the worker timeout.
partition() {
  gang_over_hosts --tp 0 0 0 || return
  cat >"$work/cut.sh" <<END
case \$1 in
  begin) for signal in $*; do kill -\$signal $cable || exit 1; done ;;
  end) kill -HUP $cable ;;
esac
END
  drive "$a" 1 --requests 8 --kind command --command "bash $work/cut.sh" --duration-ms-max 12000 \
    --duration-ms-min $((faults > 1 ? 1000 : 6000))
}

# A coordinator, and a gang of two ranks whose hosts have a cable of their own beside the network to
# the coordinator. Cut, each rank is alive and reaches the coordinator. The line that says so names
# who waits for whom, in which step and exchange; clients go on once the cable is mended.
case_cut_between_two_workers() {
  make_hosts a b c || return
  data_cable b c || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  keep_worker "$b" worker-b.log --gang g --tp 2 --rank 0 --net-interface data0
  keep_worker "$c" worker-c.log --gang g --tp 2 --rank 1 --net-interface data0
  serving "$a" || return 1
  cat >"$work/cut.sh" <<END
case \$1 in
  begin) date +%s.%N >>"$work/cut.txt"; kill -USR1 $cable && kill -USR2 $cable ;;
  end) kill -HUP $cable ;;
esac
END
  drive "$a" 1 --requests 8 --kind command --command "bash $work/cut.sh" --duration-ms-min 9000 \
    --duration-ms-max 9000 || return 1
  # One of the two may have had what it needs of the other.
  local seen=', pid [0-9]+, last seen in (step [0-9]+|a self-test), waiting for rank'
  local line=" E .*(rank 0 \\($b\\)$seen 1|rank 1 \\($c\\)$seen 0): [a-z-]+ of.* network between $b, $c is cut"
  grep -qE "$line" "$work/coordinator.log" || { echo "no line like: $line"; return 1; }
  found_after_cut "$line"
}

# The line of the coordinator that says so came within ten seconds of the cut.
found_after_cut() {
  local found
  found=$(grep -E -m1 "$1" "$work/coordinator.log" | cut -d' ' -f1,2)
  awk -v cut="$(head -1 "$work/cut.txt")" -v found="$(date -d "$found" +%s.%N)" \
    'BEGIN { printf "found %.1f s after the cut\n", found - cut; exit !(found > cut && found - cut < 10) }' >&3
}

case_cut_off_host() { partition USR1 USR2; }
case_cut_off_one_way() { partition USR1; }
case_cut_off_the_other_way() { partition USR2; }

# keep_mpirun NAME NAME: a gang over those two hosts, as README and docs say: sets $keeper.
keep_mpirun() {
  make_hostfile 1 "$1" "$2"
  start "${!1}" keeper.log "$source/scripts/keep_mpirun.sh" -np 2 --hostfile "$work/hosts" --bind-to none \
    "${over_wires[@]}" --mca btl_tcp_if_include wire0 \
    "$bin/trireme-worker" --coordinator "$server" --model "$model" --threads 1 --kv-memory 64MiB --tp 2
  keeper=$started
  serving "${!1}"
}

# Either host's rank.
case_mpirun_over_two_hosts_loses_a_rank() {
  make_hosts a b c || return
  start_coordinator "$a" 10.213.0.1 --insecure && keep_mpirun b c || return 1
  drive "$a" 6 --requests 8 --kind kill && drive "$a" 2 --requests 8 --kind term
}

# kept_gang_loses_a_host: when the cable is mended the gang forms again.
kept_gang_loses_a_host() {
  make_hosts a b c || return
  replace_cable c 0 0 0 || return
  local cable=${pids[-1]}
  start_coordinator "$a" 10.213.0.1 --insecure && keep_mpirun b c || return 1
  cat >"$work/cut.sh" <<END
case \$1 in
  begin)
    kill -USR1 $cable && kill -USR2 $cable || exit 1
    {
      began=\$(date +%s%N)
      before=\$(grep -c 'mpirun has ended' $work/keeper.log)
      for _ in {1..110}; do ((\$(grep -c 'mpirun has ended' $work/keeper.log) > before)) && break; sleep 0.1; done
      echo \$(((\$(date +%s%N) - began) / 1000000)) >>$work/ended.txt
    } >/dev/null 2>&1 & ;;
  end) kill -HUP $cable ;;
esac
END
  drive "$a" 1 --requests 8 --kind command --command "bash $work/cut.sh" --duration-ms-min 12000 \
    --duration-ms-max 12000 || return 1
  local ended
  while read -r ended; do
    echo "mpirun ended $ended ms after the cut" >&3
    ((ended < 10000)) || return 1
  done <"$work/ended.txt"
  (($(ip netns pids "$c" | xargs -r ps -o comm= -p | grep -c trireme-worker) == 1)) || { echo "a rank is left"; return 1; }
}

case_mpirun_over_two_hosts_loses_a_host() { kept_gang_loses_a_host; }

# mpirun has told the other host's daemon to end, and waits for it: with something on its way there are no keepalives, and the
# connection would take a quarter of an hour to fail.
case_an_mpirun_that_waits_for_a_lost_host_is_killed() {
  OMPI_MCA_oob_tcp_keepalive_time=300 kept_gang_loses_a_host && contains keeper.log "does not end; killed"
}

# The gang drains and mpirun ends well; what is under way goes on when it is started again.
case_a_kept_mpirun_is_told_to_end() {
  local tokens=900
  expected_answer || return 1
  make_hosts a b c || return
  start_coordinator "$a" 10.213.0.1 --insecure && keep_mpirun b c || return 1
  ask "$a" >"$work/answer.txt" &
  local client=$!
  sleep 0.2
  kill -TERM "$keeper"
  timeout 10 tail -s 0.1 --pid="$keeper" -f /dev/null || { echo "it goes on"; return 1; }
  wait "$keeper" || { echo "exit code $?"; return 1; }
  kill -0 "$client" || { echo "the answer was over before"; return 1; }
  contains keeper.log "was told to end" && keep_mpirun b c || return 1
  wait "$client" && cmp "$work/expected.txt" "$work/answer.txt"
}

case_a_bad_network_is_no_fault() {
  # Two exchanges a token, where tensor parallelism has dozens.
  gang_over_hosts --pp 5 5 0 || return
  drive "$a" 1 --requests 8 --kind command --command true --duration-ms-min 15000 --duration-ms-max 15000 || return 1
  grep -q ' 0 gangs lost' "$work/driver.txt"
}

exec 3>&1
run_cases
