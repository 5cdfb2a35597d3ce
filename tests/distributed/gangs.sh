# Sourced by the tests of gangs with the arguments BIN-DIR SOURCE-DIR [CASE]: real processes, and network namespaces
# as hosts. Each case_* function is one test; it leaves no process and no network namespace behind.
set -uo pipefail
bin=$1
source=$2
case=${3:-}
model=$source/models/pilot
question="Tell me about Trireme"
tokens=200  # of its answer
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

# A directory as a rank needs it that is sent its weights: sets $unread.
directory_without_weights() {
  unread=$work/without-weights
  mkdir -p "$unread" && cp "$model/config.json" "$unread"
}

serving() { ${1:+ip netns exec "$1"} "$bin/trireme" nodes --server "$server" --wait 60 >"$work/nodes.txt"; }

# The tokens of one long answer, with their text.
ask() {
  ${1:+ip netns exec "$1"} "$bin/trireme" generate --server "$server" --timeout 120 --ignore-eos --max-tokens "$tokens" \
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
  local pid namespace
  for pid in "${pids[@]}"; do timeout 30 tail -s 0.1 --pid="$pid" -f /dev/null || kill -KILL "$pid"; done
  pids=()
  for namespace in "${namespaces[@]}"; do
    ip netns pids "$namespace" | xargs -r kill -KILL  # what a lost network kept from ending
    ip netns del "$namespace"
  done
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

# replace_cable NAME DELAY_MS LOSS_PERCENT MBIT_S: a bad one between that host and the switch.
replace_cable() {
  local host=${!1} near=near-$$-$1 far=far-$$-$1 address
  address=$(ip -n "$host" -o -4 addr show wire0 | awk '{print $4}')
  start - "cable-$1.log" python3 "${BASH_SOURCE%/*}/bad_cable.py" "$near" "$far" "${@:2}"
  for _ in {1..50}; do grep -q 'plugged in' "$work/cable-$1.log" && break; sleep 0.1; done
  if ! grep -q 'plugged in' "$work/cable-$1.log"; then
    echo "TAP interfaces are not permitted here: $(tail -1 "$work/cable-$1.log")"
    return $skipped
  fi
  ip -n "$host" link del wire0 && ip link set "$near" netns "$host" name wire0 || return 1
  ip -n "$host" addr add "$address" dev wire0 && ip -n "$host" link set wire0 up || return 1
  ip link set "$far" netns "${namespaces[0]}" && ip -n "${namespaces[0]}" link set "$far" master switch0 up
}

# data_cable NAME NAME: a network of its own between two hosts, 10.214.0.1 and .2 at the interface data0; sets $cable to
# the process that carries it.
data_cable() {
  local ends=("one-$$" "two-$$") number
  start - cable-data.log python3 "${BASH_SOURCE%/*}/bad_cable.py" "${ends[@]}" 0 0 0
  cable=$started
  for _ in {1..50}; do grep -q 'plugged in' "$work/cable-data.log" && break; sleep 0.1; done
  if ! grep -q 'plugged in' "$work/cable-data.log"; then
    echo "TAP interfaces are not permitted here: $(tail -1 "$work/cable-data.log")"
    return $skipped
  fi
  for number in 1 2; do
    local name=${!number} end=${ends[number - 1]}
    ip link set "$end" netns "${!name}" name data0 || return 1
    ip -n "${!name}" addr add "10.214.0.$number/24" dev data0 && ip -n "${!name}" link set data0 up || return 1
  done
}

# make_hostfile SLOTS NAME NAME: those two hosts, and the launch agent, which does for the second what ssh would. Sets
# $over_wires, what mpirun needs to use them.
make_hostfile() {
  local far=${!3} names=("$2" "$3") host line
  : >"$work/hosts"
  for host in "${names[@]}"; do
    line=$(ip -n "${!host}" -o -4 addr show wire0 | awk '{sub("/.*", "", $4); print $4}')
    echo "$line slots=$1" >>"$work/hosts"
  done
  cat >"$work/agent.sh" <<END
#!/bin/bash
[[ \$1 == $line ]] || { echo "no such host: \$1"; exit 1; }
exec ip netns exec $far unshare --uts --ipc bash -c "hostname $far; \${*:2}"
END
  chmod +x "$work/agent.sh"
  over_wires=(--mca plm_rsh_agent "$work/agent.sh" --mca oob_tcp_if_include wire0 --mca pml ob1 --mca btl tcp,self
    --mca mpi_yield_when_idle 1)
}

# Runs the cases whose names contain $case, and ends.
run_cases() {
  local failed=0 passed=0 name output
  for name in $(declare -F | awk '/ case_/ {print $3}'); do
    [[ -n $case && $name != *$case* ]] && continue
    # What the logs of a failed case say is its own, and not that they were stopped afterwards.
    output=$(
      "$name" 2>&1
      code=$?
      ((code == 0 || code == skipped)) || tail -n 20 "$work"/*.log | sed 's/^/| /'
      stop_all >/dev/null 2>&1
      exit $code
    )
    case $? in
      0) echo "ok   $name"; passed=$((passed + 1)) ;;
      "$skipped") echo "skip $name: $output" ;;
      *)
        echo "FAIL $name"
        echo "$output" | sed 's/^/  /'
        failed=$((failed + 1)) ;;
    esac
    rm -rf "${work:?}"/*
  done
  rm -rf "$work"
  echo "$passed passed, $failed failed"
  exit $((failed > 0))
}
