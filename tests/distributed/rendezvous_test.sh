#!/usr/bin/env bash
# Gangs without mpirun: tests/distributed/rendezvous_test.sh BIN-DIR SOURCE-DIR [CASE]
# Each case_* function is one test; it leaves no process and no network namespace behind.
set -uo pipefail
bin=$1
source=$2
model=$source/models/pilot
question="Tell me about Trireme"
work=$(mktemp -d)
skipped=77

pids=()
namespaces=()

# Runs a program in the background, in network namespace $1 unless that is "-", and remembers it.
start() {
  local namespace=$1 log=$2
  shift 2
  : >"$work/$log"  # what an earlier program has said is not this one's
  if [[ $namespace == - ]]; then
    "$@" >"$work/$log" 2>&1 &
  else
    # As another host: a name and shared memory of its own.
    ip netns exec "$namespace" unshare --uts --ipc bash -c 'hostname "$0" && exec "$@"' "$namespace" "$@" \
      >"$work/$log" 2>&1 &
  fi
  started=$!
  pids+=("$started")
}

# Starts a coordinator; sets $coordinator and $server.
start_coordinator() {
  local namespace=$1 address=$2
  shift 2
  start "$namespace" coordinator.log "$bin/trireme-coordinator" --model "$model" --grpc "$address:0" "$@"
  coordinator=$started
  for _ in {1..100}; do
    server=$(sed -nE 's/.*listening on ([0-9.]+:[0-9]+).*/\1/p' "$work/coordinator.log")
    [[ -n $server ]] && return
    sleep 0.1
  done
  echo "the coordinator did not start"
  return 1
}

# start_worker NAMESPACE LOG FLAGS...; sets $started.
start_worker() {
  local namespace=$1 log=$2
  shift 2
  start "$namespace" "$log" "$bin/trireme-worker" --coordinator "$server" --model "$model" --threads 1 \
    --kv-memory 64MiB "$@"
}

serving() { ${1:+ip netns exec "$1"} "$bin/trireme" nodes --server "$server" --wait 60 >"$work/nodes.txt"; }

# The tokens of one long answer, with their text.
ask() {
  ${1:+ip netns exec "$1"} "$bin/trireme" generate --server "$server" --timeout 120 --ignore-eos --max-tokens 200 \
    --temperature 0.8 --seed 7 "$question"
}

# What a gang of one says.
expected_answer() {
  start_coordinator - 127.0.0.1 && start_worker - alone.log && serving "" && ask "" >"$work/expected.txt" || return 1
  stop_all
}

same_answer() {
  ask "${1:-}" >"$work/answer.txt" || { echo "the request failed"; return 1; }
  cmp "$work/expected.txt" "$work/answer.txt"
}

stop_all() {
  ((${#pids[@]} == 0)) || kill -TERM "${pids[@]}" 2>/dev/null
  wait "${pids[@]}" 2>/dev/null
  pids=()
  local namespace
  for namespace in "${namespaces[@]}"; do ip netns del "$namespace"; done
  namespaces=()
}

# The process ends within 20 seconds, and not well.
ends_with_an_error() {
  timeout 20 tail --pid="$1" -f /dev/null || { echo "process $1 goes on"; return 1; }
  wait "$1" && { echo "process $1 ended as if all were well"; return 1; }
  return 0
}

contains() {
  grep -qF -- "$2" "$work/$1" && return
  echo "$1 does not say: $2"
  return 1
}

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
  for i in 0 1 2; do start_worker - "worker$i.log" --gang g --tp 2 --pp 2; done
  serving "" && same_answer || return 1
  contains worker3.log "rank 3 of 4" && contains coordinator.log "(tp 2, pp 2, ucx)"
}

case_contradictions_are_named() {
  start_coordinator - 127.0.0.1 || return 1
  start_worker - first.log --gang g --tp 2 --rank 0
  for _ in {1..50}; do grep -q 'waiting for all' "$work/first.log" && break; sleep 0.1; done
  sleep 0.3  # it has said so just before it calls
  start_worker - other.log --gang g --tp 4
  ends_with_an_error "$started" || return 1
  contains other.log "gang g: --tp is 4 on $(hostname) but 2 on $(hostname)" || return 1
  start_worker - other.log --gang g --tp 2 --rank 0
  ends_with_an_error "$started" && contains other.log "--rank 0 is taken" || return 1
  start_worker - other.log --gang g --tp 2 --dtype float32
  ends_with_an_error "$started" && contains other.log "--dtype is float32" || return 1
  start_worker - other.log --gang g --tp 2 --rank 2
  ends_with_an_error "$started" && contains other.log "--rank 2 of 2" || return 1
  start_worker - other.log --gang g --tp 2 --net-interface nowhere0
  ends_with_an_error "$started" && contains other.log "nowhere0" || return 1
  if [[ ! -d /sys/class/infiniband ]]; then
    start_worker - other.log --gang g --tp 2 --require-rdma
    ends_with_an_error "$started" && contains other.log "no active RDMA port" || return 1
  fi
  start_worker - other.log --gang g --tp 2 # and the first still waits
  serving ""
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

case_a_stopped_coordinator_sends_those_that_wait_away() {
  start_coordinator - 127.0.0.1 && start_worker - worker.log --gang g --tp 2 || return 1
  for _ in {1..50}; do grep -q 'waiting for all' "$work/worker.log" && break; sleep 0.1; done
  sleep 0.3
  kill -TERM "$coordinator"
  ends_with_an_error "$started"
}

# Network namespaces as hosts, 10.213.0.1 and so on, at one switch: make_hosts NAME... sets $NAME to
# each one's namespace. The interface is wire0.
make_hosts() {
  local switch=trireme-switch-$$ name host number=0
  if ! { ip netns add "$switch" && namespaces+=("$switch") && ip -n "$switch" link add switch0 type bridge &&
         ip -n "$switch" link set switch0 up && unshare --uts --ipc true; } >"$work/hosts.txt" 2>&1; then
    echo "network namespaces are not permitted here: $(tail -1 "$work/hosts.txt")"
    return $skipped
  fi
  for name in "$@"; do
    host=trireme-$name-$$
    number=$((number + 1))
    ip netns add "$host" && namespaces+=("$host") || return 1
    ip link add wire0 netns "$host" type veth peer name "to-$name" netns "$switch" || return 1
    ip -n "$switch" link set "to-$name" master switch0 up || return 1
    ip -n "$host" addr add "10.213.0.$number/24" dev wire0 || return 1
    ip -n "$host" link set wire0 up && ip -n "$host" link set lo up || return 1
    printf -v "$name" %s "$host"
  done
  # The kernel may take a second to notice that a cable is plugged in.
  for host in "${namespaces[@]:1}"; do
    for _ in {1..50}; do
      ip -n "$host" link show wire0 | grep -q 'state UP' && break
      sleep 0.1
    done
  done
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

case_loopback_between_hosts_is_refused() {
  make_hosts a b || return
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  start_worker "$a" worker0.log --gang g --tp 2 --net-interface lo
  local first=$started
  start_worker "$b" worker1.log --gang g --tp 2 --net-interface lo
  ends_with_an_error "$first" && ends_with_an_error "$started" && contains worker0.log "loopback interface lo"
}

# One of three hosts has a cable of 100 Mbit/s.
case_the_start_test_warns_of_a_slow_host() {
  make_hosts a b c || return
  ip netns exec "$b" tc qdisc add dev wire0 root tbf rate 100mbit burst 32kb latency 100ms || return 1
  start_coordinator "$a" 10.213.0.1 --insecure || return 1
  local host rank=0
  for host in "$a" "$b" "$c"; do
    start_worker "$host" "worker$rank.log" --gang g --pp 3 --rank $rank
    rank=$((rank + 1))
  done
  serving "$a" && contains worker0.log "rank 1 ($b) is slow: 2 of its 2 links" || return 1
  grep 'links, measured' "$work/worker0.log"
}

failed=0
passed=0
for name in $(declare -F | awk '/ case_/ {print $3}'); do
  [[ -n ${3:-} && $name != *$3* ]] && continue
  output=$("$name" 2>&1; code=$?; stop_all >/dev/null 2>&1; exit $code)
  case $? in
    0) echo "ok   $name"; passed=$((passed + 1)) ;;
    "$skipped") echo "skip $name: $output" ;;
    *)
      echo "FAIL $name"
      echo "$output" | sed 's/^/  /'
      tail -n 20 "$work"/*.log | sed 's/^/  | /'
      failed=$((failed + 1)) ;;
  esac
done
rm -rf "$work"
echo "rendezvous: $passed passed, $failed failed"
exit $((failed > 0))
