#!/usr/bin/env bash
# Keeps a gang running under Open MPI's mpirun: scripts/keep_mpirun.sh -np 4 --hostfile hosts ... trireme-worker ...
# mpirun is started anew whenever it ends, after a pause that grows until the gang has served; one that has lost a worker of
# this host and does not end is killed. SIGTERM: the gang drains and this ends with mpirun's exit code, 0; a second one
# forces it.
set -uo pipefail
readonly poll_s=0.5 stuck_s=3 drained_s=15 steady_s=1 long_s=3600 pause_ms_max=30000

# The command line's --mca go before these. What is left of a gang that has lost a rank has nothing to finish: mpirun would
# wait for it several times over. Other hosts' daemons that are silent: 8 s.
export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-0}
export OMPI_MCA_oob_tcp_keepalive_time=${OMPI_MCA_oob_tcp_keepalive_time:-5}
export OMPI_MCA_oob_tcp_keepalive_intvl=${OMPI_MCA_oob_tcp_keepalive_intvl:-1}
export OMPI_MCA_oob_tcp_keepalive_probes=${OMPI_MCA_oob_tcp_keepalive_probes:-3}

say() { echo "keep_mpirun: $*" >&2; }

if ((EUID == 0)) && [[ " $* " != *" --allow-run-as-root "* &&
     ${OMPI_ALLOW_RUN_AS_ROOT:-}${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-} != 11 ]]; then
  say "mpirun does not run as root: use another user (systemd: User=), or set OMPI_ALLOW_RUN_AS_ROOT=1 and" \
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
  exit 1
fi

mpirun=
terms=0
served_since=

# That have not ended.
ranks_here() { pgrep -x -P "$mpirun" -r R,S,D,T trireme-worker; }

# mpirun itself answers SIGTERM by killing. Any rank tells the others.
on_term() {
  terms=$((terms + 1))
  [[ -n $mpirun ]] || exit 0
  local rank
  rank=$(ranks_here | head -n 1)
  if ((terms == 1)) && [[ -n $rank ]]; then
    kill -TERM "$rank"
  else
    kill -TERM "$mpirun"
  fi
}
trap on_term TERM INT
on_exit() {
  jobs -p | xargs -r kill 2>/dev/null
  exec {log}>&-
  for _ in {1..10}; do kill -0 "$log_reader" 2>/dev/null || break; sleep 0.1; done  # the last words
}
trap on_exit EXIT

# Passes on what is said, and tells by SIGUSR1 when a rank says that it serves: loading for minutes is no steady life.
watch_log() {
  trap '' TERM INT
  local line
  while IFS= read -r line; do
    echo "$line" >&2
    [[ $line != *": ready after "* ]] || kill -USR1 $$
  done
}
trap 'served_since=${served_since:-$SECONDS}' USR1
exec {log}> >(watch_log)
readonly log log_reader=$!

# Whether mpirun's life was more than a failed start. The second is for logs that do not tell.
was_steady() {
  ((SECONDS - ${served_since:-SECONDS} >= steady_s || SECONDS - begin >= long_s))
}

# Returns when mpirun has ended, if need be by force.
watch_mpirun() {
  local tick most=0 now missing_since=
  while kill -0 "$mpirun" 2>/dev/null; do
    sleep "$poll_s" &
    tick=$!
    wait -n "$mpirun" "$tick" 2>/dev/null
    kill "$tick" 2>/dev/null
    now=$(ranks_here | wc -l)
    ((now > most)) && most=$now
    if ((now >= most)); then
      missing_since=
    elif ! kill -0 "$mpirun" 2>/dev/null; then
      return
    elif [[ -z $missing_since ]]; then
      missing_since=$SECONDS
    elif ((SECONDS - missing_since >= (terms > 0 ? drained_s : stuck_s))); then  # ranks that drain end one by one
      say "mpirun has lost a worker and does not end; killed"
      ranks_here | xargs -r kill -KILL
      kill -KILL "$mpirun"
      return
    fi
  done
}

pause_ms=0
while true; do
  begin=$SECONDS served_since=
  mpirun "$@" </dev/null 2>&"$log" &
  mpirun=$!
  watch_mpirun
  wait "$mpirun"
  code=$?
  while kill -0 "$mpirun" 2>/dev/null; do  # a signal has come between
    wait "$mpirun"
    code=$?
  done
  mpirun=
  ((terms == 0)) || exit "$code"
  ! was_steady || pause_ms=0
  say "mpirun has ended with exit code $code; again in $pause_ms ms"
  sleep "$((pause_ms / 1000)).$(printf %03d $((pause_ms % 1000)))" &
  wait $!
  pause_ms=$((pause_ms == 0 ? 250 : pause_ms * 2))
  ((pause_ms <= pause_ms_max)) || pause_ms=$pause_ms_max
done
