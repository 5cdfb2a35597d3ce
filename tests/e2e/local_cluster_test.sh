#!/usr/bin/env bash
# trireme run and trireme serve: tests/e2e/local_cluster_test.sh BIN-DIR SOURCE-DIR [PART-OF-A-NAME]
# Each case_* function is one test. The model's path is its own, so that what is left behind is found by it.
set -uo pipefail
bin=$1
source=$2
question="What is Trireme?"
answer="Trireme is a native C++ inference cluster for large language models. It splits a model over many \
processes with tensor, pipeline and data parallelism."
work=$(mktemp -d)
model=$work/pilot
cp -r "$source/models/pilot" "$model"
small=(--threads 1 --kv-memory 64MiB)

expect_match() {
  local what=$1 got=$2 want=$3
  [[ $got == *"$want"* ]] && return
  printf '%s:\n  got  %q\n  want it to contain %q\n' "$what" "$got" "$want"
  return 1
}

expect_failure() {  # WORDS COMMAND...: ends soon, with them
  local want=$1
  shift
  timeout 60 "$@" >"$work/out.txt" 2>&1
  local code=$?
  ((code != 0 && code != 124)) || { echo "exit code $code: $*"; return 1; }
  expect_match "$*" "$(cat "$work/out.txt")" "$want"
}

children() { pgrep -f "trireme-(worker|coordinator).*$model"; }

# What was started must be gone soon.
expect_no_children() {
  for _ in {1..50}; do
    children >/dev/null || return 0
    sleep 0.1
  done
  echo "left behind:"
  pgrep -fa "$model"
  return 1
}

# Starts `trireme serve` on a free port and waits until it serves: sets $serve and $server.
start_serve() {
  rm -f "$work/serve.txt"
  # A background job of a script starts with SIGINT ignored; a user's does not.
  env --default-signal=INT "$bin/trireme" serve "$model" --grpc 127.0.0.1:0 "${small[@]}" "$@" \
    >"$work/serve.txt" 2>"$work/serve.log" &
  serve=$!
  for _ in {1..300}; do
    server=$(sed -nE 's/.*gRPC at ([0-9.]+:[0-9]+).*/\1/p' "$work/serve.txt" 2>/dev/null)
    [[ -n $server ]] && return
    kill -0 "$serve" 2>/dev/null || break
    sleep 0.1
  done
  echo "it does not serve"
  cat "$work/serve.log"
  return 1
}

ends_with() {  # CODE PID
  timeout 20 tail --pid="$2" -f /dev/null || { echo "$2 goes on"; return 1; }
  wait "$2"
  local code=$?
  ((code == $1)) || { echo "exit code $code, not $1"; return 1; }
}

case_run_answers_a_prompt_in_every_layout() {
  local layout
  for layout in "--tp 1" "--tp 2" "--pp 2"; do
    # shellcheck disable=SC2086
    expect_match "$layout" "$("$bin/trireme" run "$model" "${small[@]}" $layout -p "$question")" "$answer" ||
      return 1
    expect_no_children || return 1
  done
  expect_match "a prompt of standard input" \
    "$(printf %s "$question" | "$bin/trireme" run "$model" "${small[@]}" -p - -n 4)" "Trireme is a"
}

case_run_needs_no_more_than_a_gguf_file() {
  local file=$work/pilot.gguf answer
  cp "$source/tests/fuzz/corpus/gguf/whole_llama" "$file"
  answer=$(printf 'Hi\n' | timeout 60 "$bin/trireme" run "$file" 2>"$work/err.txt") ||
    { echo "exit code $?"; cat "$work/err.txt"; return 1; }
  [[ -n $answer ]] || { echo "no answer"; cat "$work/err.txt"; return 1; }
  answer=$("$bin/trireme" run "$file" -p Hi -n 8 --temperature 0) || return 1
  expect_match "weights that are loaded first" \
    "$("$bin/trireme" run "$file" -p Hi -n 8 --temperature 0 --load slices)" "$answer"
}

case_run_keeps_the_conversation() {
  expect_match "two questions" \
    "$(printf 'Hello\n%s\n' "$question" | "$bin/trireme" run "$model" "${small[@]}")" "$answer" || return 1
  expect_no_children
}

# Ten questions and answers are some 400 tokens.
case_run_forgets_the_oldest_questions_when_the_context_is_full() {
  printf "$question\n%.0s" {1..10} | "$bin/trireme" run "$model" "${small[@]}" --max-model-len 192 \
    --system "Be brief." >"$work/out.txt" 2>"$work/err.txt" || { cat "$work/err.txt"; return 1; }
  expect_match notice "$(cat "$work/err.txt")" "messages are forgotten" || return 1
  [[ $(grep -c 'parallelism\.$' "$work/out.txt") == 10 ]] || { echo "not answered:"; cat "$work/out.txt"; return 1; }
  ! grep -q "prompt has" "$work/err.txt"
}

case_a_context_below_the_models_is_told() {
  local tokens
  "$bin/trireme" run "$model" --threads 1 --kv-memory 1MiB -n 4 -p x >/dev/null 2>"$work/err.txt" || return 1
  tokens=$(sed -nE 's/.*context is ([0-9]+) of the model.s 1024 tokens.*/\1/p' "$work/err.txt")
  ((${tokens:-1024} < 1024)) || { cat "$work/err.txt"; return 1; }
  "$bin/trireme" run "$model" --threads 1 -n 4 -p x >/dev/null 2>"$work/err.txt" || return 1
  [[ ! -s $work/err.txt ]] || { cat "$work/err.txt"; return 1; }
}

case_run_without_a_chat_template_completes() {
  cp -r "$model" "$work/base"
  sed -i -E '/"chat_template"/d' "$work/base/tokenizer_config.json"
  rm -f "$work/base/chat_template.jinja"
  "$bin/trireme" run "$work/base" "${small[@]}" -n 5 -p "Trireme is" >"$work/out.txt" 2>"$work/err.txt" ||
    { cat "$work/err.txt"; return 1; }
  expect_match notice "$(cat "$work/err.txt")" "no chat_template" || return 1
  [[ -s $work/out.txt ]] || { echo "no text"; return 1; }
  echo '{% for %}' >"$work/base/chat_template.jinja"
  "$bin/trireme" run "$work/base" "${small[@]}" -n 5 -p "Trireme is" >"$work/out.txt" 2>"$work/err.txt" ||
    { cat "$work/err.txt"; return 1; }
  expect_match "the reason" "$(cat "$work/err.txt")" "chat_template.jinja: chat template, line 1" || return 1
}

case_ctrl_c_stops_an_answer_and_at_the_prompt_all() {
  rm -f "$work/out.txt"  # what it says must be its own
  mkfifo "$work/keyboard"
  env --default-signal=INT "$bin/trireme" run "$model" "${small[@]}" --ignore-eos --max-tokens 900 \
    <"$work/keyboard" >"$work/out.txt" 2>&1 &
  local run=$! i
  exec 9>"$work/keyboard"
  echo "Tell me" >&9
  for i in {1..100}; do [[ -s $work/out.txt ]] && break; sleep 0.05; done
  kill -INT "$run"
  sleep 0.3
  kill -0 "$run" 2>/dev/null || { echo "the first Ctrl-C ended it"; cat "$work/out.txt"; return 1; }
  kill -INT "$run"
  exec 9>&-
  ends_with 130 "$run" || return 1
  expect_no_children
}

case_a_killed_run_leaves_nothing() {
  local layout
  for layout in "--tp 1" "--tp 2"; do
    # shellcheck disable=SC2086
    start_serve $layout || return 1
    [[ $(children | wc -l) -ge 2 ]] || { echo "no children"; return 1; }
    kill -KILL "$serve"
    wait "$serve" 2>/dev/null
    expect_no_children || return 1
  done
}

case_serve_serves_until_it_is_told_to_stop() {
  local signal
  for signal in INT TERM; do
    start_serve --tp 2 || return 1
    expect_match "an answer" "$("$bin/trireme" chat --server "$server" "$question")" "$answer" || return 1
    kill "-$signal" "$serve"
    ends_with 0 "$serve" || return 1
    expect_no_children || return 1
  done
}

case_lost_workers_are_started_anew() {
  # Slow kernels, so that the answer is not over before its workers are killed.
  TRIREME_CPU_VARIANT=scalar start_serve || return 1
  "$bin/trireme" generate --server "$server" --ignore-eos --max-tokens 700 "Tell me" >"$work/calm.txt" || return 1
  "$bin/trireme" generate --server "$server" --ignore-eos --max-tokens 700 "Tell me" >"$work/killed.txt" &
  local client=$!
  sleep 0.2
  pkill -KILL -f "trireme-worker.*$model"
  wait "$client" || { echo "the request failed"; return 1; }
  grep -q 'starting them anew' "$work/serve.log" || { echo "no new workers"; return 1; }
  cmp "$work/calm.txt" "$work/killed.txt" || return 1
  pkill -KILL -f "trireme-coordinator.*$model"
  ends_with 1 "$serve" || return 1
  expect_match "its last words" "$(cat "$work/serve.log")" "the coordinator has ended: signal 9" || return 1
  expect_no_children
}

# With the worker whose CUDA kernels run on the CPU in the worker's place.
# A stopped mpirun notices nothing, as one that has locked up.
case_an_mpirun_that_is_stuck_is_started_anew() {
  start_serve --tp 2 || return 1
  pkill -STOP -P "$serve" mpirun || return 1
  pkill -KILL -o -f "trireme-worker.*$model" || return 1
  for _ in {1..100}; do
    grep -q "does not end; killed" "$work/serve.log" && break
    sleep 0.1
  done
  "$bin/trireme" nodes --server "$server" --wait 20 >/dev/null || { cat "$work/serve.log"; return 1; }
  expect_match "an answer" "$("$bin/trireme" chat --server "$server" "$question")" "$answer" || return 1
  kill "$serve"
  ends_with 0 "$serve" && expect_no_children
}

case_a_device_is_the_workers() {
  mkdir "$work/emulated"
  cp "$bin/trireme" "$work/emulated/"
  ln -s "$bin/trireme-coordinator" "$work/emulated/"
  ln -s "$bin/trireme-worker-emulated" "$work/emulated/trireme-worker"
  expect_match "the device" "$("$work/emulated/trireme" run "$model" --device cuda "${small[@]}" --max-model-len 128 \
    -n 8 --log-level info -p "$question" 2>&1)" "cuda 0 emulated device" || return 1
  expect_no_children || return 1
  expect_failure "cpu,cuda" "$bin/trireme" run "$model" --device tpu -p x || return 1
  ldd "$bin/trireme-worker" | grep -q libcudart && return  # it has CUDA
  expect_failure "this build has no CUDA" "$bin/trireme" run "$model" --device cuda -p x || return 1
  TRIREME_DEVICE=cuda expect_failure "this build has no CUDA" "$bin/trireme" serve "$model" --grpc 127.0.0.1:0 || return 1
  expect_no_children
}

case_workers_load_as_the_cluster_is_told() {
  (cd "$model" && sha256sum ./*.json ./*.safetensors >SHA256SUMS)
  start_serve --pp 2 --stage-layers 5,3 --placement as-given --load broadcast --verify-checksum || return 1
  local nodes shard read
  nodes=$("$bin/trireme" nodes --server "$server" --json)
  expect_match "the stages" "$(grep -oE '"layer_(begin|end)":[0-9]+' <<<"$nodes" | tr '\n' ' ')" \
    '"layer_begin":0 "layer_end":5 "layer_begin":5 "layer_end":8' || return 1
  mapfile -t shard < <(grep -oP '"shard_bytes":"\K[0-9]+' <<<"$nodes")
  mapfile -t read < <(grep -oP '"bytes_read":"\K[0-9]+' <<<"$nodes")
  ((read[0] == shard[0] + shard[1])) || { echo "rank 0 has not read for both: $nodes"; return 1; }
  expect_match "the checksums" "$(cat "$work/serve.log")" "checksums" || return 1
  expect_match "an answer" "$("$bin/trireme" chat --server "$server" "$question")" "$answer" || return 1
  kill "$serve"
  ends_with 0 "$serve" || return 1
  sed -i 's/^./x/' "$model/SHA256SUMS"
  expect_failure "SHA256SUMS:1" "$bin/trireme" run "$model" "${small[@]}" --verify-checksum -p x || return 1
  rm "$model/SHA256SUMS"
  expect_failure "slices,broadcast" "$bin/trireme" run "$model" --load mmap -p x || return 1
  expect_failure "make its 8 layers" "$bin/trireme" run "$model" "${small[@]}" --pp 2 --stage-layers 5,5 -p x || return 1
  expect_no_children
}

case_bad_starts() {
  expect_failure "/nowhere" "$bin/trireme" run /nowhere -p x || return 1
  expect_failure "1024 positions" "$bin/trireme" run "$model" -p x --max-model-len 99999 || return 1
  expect_failure "nearest legal" "$bin/trireme" run "$model" -p x --tp 3 "${small[@]}" || return 1
  expect_failure "is no amount of memory" "$bin/trireme" run "$model" -p x --kv-memory much || return 1
  start_serve || return 1
  expect_failure "serves at $server already" "$bin/trireme" serve "$model" --grpc "$server" || return 1
  expect_failure "--insecure" "$bin/trireme" serve "$model" --grpc 0.0.0.0:1 || return 1
  kill -TERM "$serve"
  ends_with 0 "$serve" || return 1
  expect_no_children
}

failed=0
passed=0
for name in $(declare -F | awk '/ case_/ {print $3}'); do
  [[ -n ${3:-} && $name != *$3* ]] && continue
  if output=$("$name" 2>&1); then
    echo "ok   $name"
    passed=$((passed + 1))
  else
    echo "FAIL $name"
    echo "$output" | sed 's/^/  /'
    failed=$((failed + 1))
    for pid in $(pgrep -f "trireme.*$model"); do kill -KILL "$pid"; done
  fi
done
rm -rf "$work"
echo "local cluster: $passed passed, $failed failed"
exit $((failed > 0))
