#!/usr/bin/env bash
# Several gangs of real workers behind one coordinator, under load: tests/e2e/replicas_test.sh BIN-DIR SOURCE-DIR
# [CASE]; fault_driver compares every answer with the one from before the first fault.
source "${BASH_SOURCE%/*}/../distributed/gangs.sh"
small=(--threads 1 --kv-memory 64MiB)
started=()

stop_all() {
  for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null; done
  [[ -s $work/worker.pid ]] && kill -TERM "$(cat "$work/worker.pid")" 2>/dev/null
  wait
}

# Waits for LOG to name an address: sets $server.
await_address() {
  for _ in {1..200}; do
    server=$(sed -nE "s/.*$2 ([0-9.]+:[0-9]+).*/\1/p" "$1" 2>/dev/null)
    [[ -n $server ]] && return
    sleep 0.1
  done
  echo "no address in $1:"
  cat "$1"
  return 1
}

start_serve() {
  "$bin/trireme" serve "$model" --grpc 127.0.0.1:0 "${small[@]}" "$@" >"$work/serve.txt" 2>"$work/serve.log" &
  started+=($!)
  await_address "$work/serve.txt" "gRPC at"
}

gangs() { "$bin/trireme" nodes --server "$server" --json | grep -o '"communicator"' | wc -l; }

case_serve_with_replicas_survives_kills() {
  start_serve --replicas 2 || return 1
  [[ $(gangs) == 2 ]] || { echo "$(gangs) gangs, not 2"; return 1; }
  timeout 300 "$bin/fault_driver" --server "$server" --kind kill --faults 6 --streams 8
}

case_replicas_of_two_ranks_survive_kills() {
  start_serve --replicas 2 --tp 2 || return 1
  [[ $(gangs) == 2 ]] || { echo "$(gangs) gangs, not 2"; return 1; }
  timeout 300 "$bin/fault_driver" --server "$server" --kind kill --faults 4 --streams 8
}

# Each round starts a new worker, with VERSION, and tells the old one to end as soon as both serve.
roll_over() {  # VERSION
  "$bin/trireme-coordinator" --model "$model" --grpc 127.0.0.1:0 >"$work/coordinator.log" 2>&1 &
  started+=($!)
  await_address "$work/coordinator.log" "listening on" || return 1
  cat >"$work/roll.sh" <<END
[[ \$1 == end ]] && exit
old=\$(cat "$work/worker.pid" 2>/dev/null)
"$bin/trireme-worker" --coordinator $server --model "$model" --model-version $1 ${small[*]} >>"$work/workers.log" 2>&1 &
echo \$! >"$work/worker.pid"
want=\$((\${#old} > 0 ? 2 : 1))
for _ in {1..200}; do
  count=\$("$bin/trireme" nodes --server $server --json 2>/dev/null | grep -o '"communicator"' | wc -l)
  ((count == want)) && break
  sleep 0.05
done
((count == want)) || exit 1
[[ -z \$old ]] && exit
kill -TERM "\$old"
tail --pid="\$old" -f /dev/null
END
  bash "$work/roll.sh" begin || { echo "the first worker does not serve"; return 1; }
  timeout 300 "$bin/fault_driver" --server "$server" --kind command --command "bash $work/roll.sh" --faults 6 \
    --streams 8 --duration-ms-min 100 --duration-ms-max 300 || return 1
  [[ $(gangs) == 1 ]] || { echo "$(gangs) gangs, not 1"; return 1; }
  [[ $(grep -c "gang lost.*told to end" "$work/coordinator.log") == 6 ]] || { echo "not six drains"; return 1; }
  ! grep -q "wait for new workers" "$work/coordinator.log" || { echo "a request had to wait"; return 1; }
}

# An operator drains one gang of two under load, then the host, and lets it serve again.
case_drained_gangs_and_hosts() {
  start_serve --replicas 2 || return 1
  cat >"$work/drain.sh" <<END
[[ \$1 == end ]] && exit
gang=\$("$bin/trireme" nodes --server $server | awk 'NR == 2 { print \$1 }')
"$bin/trireme" drain --gang "\$gang" --server $server >>"$work/drain.log" 2>&1 || exit 1
for _ in {1..200}; do
  (( \$("$bin/trireme" nodes --server $server | wc -l) == 3 )) && exit
  sleep 0.05
done
exit 1
END
  timeout 300 "$bin/fault_driver" --server "$server" --kind command --command "bash $work/drain.sh" --faults 3 \
    --streams 8 --duration-ms-min 100 --duration-ms-max 300 || { cat "$work/drain.log"; return 1; }
  local host
  host=$("$bin/trireme" nodes --server "$server" | awk 'NR == 2 { print $5 }')
  "$bin/trireme" drain "$host.typo" --server "$server" 2>"$work/drain.txt" && { echo "drained what is no host"; return 1; }
  grep -q "no rank of any gang is on host $host.typo; hosts are: $host\. " "$work/drain.txt" ||
    { cat "$work/drain.txt"; return 1; }
  "$bin/trireme" drain "$host.typo" --server "$server" 2>/dev/null && { echo "drained it the second time"; return 1; }
  "$bin/trireme" uncordon "$host.typo" --server "$server" || return 1
  "$bin/trireme" drain "$host" --server "$server" >"$work/drain.txt" || return 1
  grep -q "no gang serves now" "$work/drain.txt" || { cat "$work/drain.txt"; return 1; }
  sleep 1
  "$bin/trireme" nodes --server "$server" >"$work/nodes.txt" 2>&1 && { echo "a drained host serves"; return 1; }
  grep -q "cordoned: $host" "$work/nodes.txt" || { cat "$work/nodes.txt"; return 1; }
  grep -q "may join after .trireme uncordon $host" "$work/serve.log" || { echo "nobody was refused"; return 1; }
  "$bin/trireme" drain "$host" --server "$server" | grep -q "^drained" || { echo "not drained twice"; return 1; }
  "$bin/trireme" drain --gang 77 --server "$server" && { echo "drained a gang that is not"; return 1; }
  "$bin/trireme" uncordon "$host" --server "$server" || return 1
  "$bin/trireme" uncordon "$host" --server "$server" && { echo "uncordoned twice"; return 1; }
  "$bin/trireme" nodes --server "$server" --wait 30 >/dev/null
}

case_a_rolling_update_fails_no_request() { roll_over same; }
# The weights are the same, so that answers can be compared, but nobody may count on that.
case_a_rolling_update_of_the_model_fails_no_request() { roll_over "\$RANDOM"; }

run_cases
