#!/usr/bin/env bash
# Everything that only a GPU can show, in less than 8 minutes; on a machine with one GPU and CUDA's libraries:
#   scripts/gpu_check.sh [RESULTS-DIR]        default: gpu_results; from a bundle (scripts/bundle.sh)
# Facts of the machine; every kernel against its CPU reference; the pilot model end to end at TP=1 and TP=2 on the
# one GPU; compute-sanitizer on a subset, where there is one; benchmarks of the kernels and, where there are python3
# and room for checkpoints of 22 GB, one at a time, of the engine; where python3 has torch, of PyTorch at the same work.
# Writes a log for each step, summary.json and, from the benchmarks, bench, engine and pytorch, .json and .txt. Ends with 0 if all steps passed, 1 if one failed,
# 77 if there is no GPU.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
results=${1:-gpu_results}
mkdir -p "$results"
results=$(cd "$results" && pwd)
seconds_max=420  # and 480 for the last step, so that it has a minute whatever the others take
rm -f "$results"/{bench,engine,pytorch}.{json,txt}  # of an earlier run
failures=()
steps=()

bundle=$PWD
[[ -d $bundle/libexec ]] || { echo "gpu_check: not a bundle; run scripts/bundle.sh, and this script there" >&2; exit 1; }

# step NAME SECONDS COMMAND...: runs it within its time, and what is left of the whole.
step() {
  local name=$1 limit=$2 rc begin=$SECONDS
  shift 2
  ((limit > seconds_max - SECONDS)) && limit=$((seconds_max - SECONDS))
  if ((limit <= 0)); then
    rc=124
  else
    timeout --kill-after=5 "$limit" "$@" >"$results/$name.log" 2>&1
    rc=$?
  fi
  local verdict=passed
  case $rc in
    0) ;;
    77) verdict=skipped ;;
    124 | 137) verdict="failed (over $limit s)" ;;
    *) verdict="failed (exit $rc)" ;;
  esac
  [[ $verdict == failed* ]] && failures+=("$name: $verdict; see $results/$name.log")
  steps+=("{\"step\": \"$name\", \"verdict\": \"$verdict\", \"seconds\": $((SECONDS - begin))}")
  printf '%-24s %s, %d s\n' "$name" "$verdict" $((SECONDS - begin))
}

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >"$results/gpus.txt" 2>&1 || ! grep -q '^GPU' "$results/gpus.txt"; then
  echo "gpu_check: no GPU here (nvidia-smi finds none); nothing was checked" >&2
  exit 77
fi

# CUDA's libraries: the toolkit's, the system's, or those of Python packages.
cuda_libraries=
for library in libcudart.so.13 libcublasLt.so.13; do
  path=$({ ldconfig -p | awk -v name="$library" '$1 == name { print $NF; exit }'
           find -L /usr/local/cuda*/ /usr/lib /opt /home /root -maxdepth 9 -name "$library" 2>/dev/null | head -1; } | head -1)
  if [[ -z $path ]]; then
    echo "gpu_check: no $library found; install CUDA 13's libraries, or put them under /usr/local/cuda/lib64" >&2
    exit 1
  fi
  cuda_libraries+=${cuda_libraries:+:}$(dirname "$path")
done
export TRIREME_CUDA_LIBRARIES=$cuda_libraries TRIREME_SOURCE_DIR=$bundle
cat ORIGIN
sed 's/ (UUID.*//' "$results/gpus.txt"

step facts 20 nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version,clocks.max.sm,clocks.max.mem,power.limit --format=csv
[[ -x bin/cuda_kernels_gpu_test ]] && step kernels 150 bin/cuda_kernels_gpu_test --gtest_brief=1

# One question to a coordinator and TP workers on the GPU; greedy, so that TP=2 must answer as TP=1 does.
pilot() {
  local tp=$1 server=127.0.0.1:$((18000 + $1)) work
  work=$(mktemp -d)
  source scripts/processes.sh
  trap 'stop_processes; rm -rf "$work"' EXIT
  start_process "$work/coordinator.log" bin/trireme-coordinator --model models/pilot --grpc "$server"
  start_process "$work/workers.log" bin/mpirun --oversubscribe --bind-to none -np "$tp" bin/trireme-worker \
    --coordinator "$server" --model models/pilot --tp "$tp" --device cuda
  bin/trireme nodes --server "$server" --wait 60 || { cat "$work"/*.log; return 1; }
  bin/trireme generate --chat --temperature 0 --server "$server" 'What is tensor parallelism?' >"$results/answer_tp$tp.txt" ||
    { cat "$work"/*.log; return 1; }
  cat "$results/answer_tp$tp.txt" "$work/workers.log"
  [[ -s $results/answer_tp$tp.txt ]]
}
export -f pilot
export results
step pilot_tp1 90 bash -c 'pilot 1'
step pilot_tp2 90 bash -c 'pilot 2'
step same_answer 5 cmp "$results/answer_tp1.txt" "$results/answer_tp2.txt"

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1)
if [[ -n $sanitizer && -x libexec/cuda_kernels_gpu_test ]]; then
  for tool in memcheck racecheck; do
    step "sanitizer_$tool" 60 "$sanitizer" --tool "$tool" --target-processes all --error-exitcode 1 \
      bin/cuda_kernels_gpu_test --gtest_brief=1 --gtest_filter='*RmsNorm*:*Rope*:*Sampl*'
  done
else
  echo "sanitizer                skipped: no compute-sanitizer here"
fi

if [[ -x bin/cuda_bench ]]; then
  step bench 120 bash -c 'bin/cuda_bench --json "$results/bench.json" >"$results/bench.txt" && cat "$results/bench.txt"'
  cat "$results/bench.txt" 2>/dev/null
fi

# Decode by the whole engine: 8B in bf16 and INT4, and a rank of 90B; the gap between steps.
if command -v python3 >/dev/null; then
  step engine 180 bash -c 'python3 tools/bench_engine.py --json "$results/engine.json" | tee "$results/engine.txt"; exit "${PIPESTATUS[0]}"'
  cat "$results/engine.txt"
else
  echo "engine                   skipped: no python3 here"
fi

# The same work by PyTorch, beside what was measured above.
seconds_max=480
pytorch() {
  local files=()
  [[ -s $results/engine.json ]] && files+=(--engine "$results/engine.json")
  [[ -s $results/bench.json ]] && files+=(--kernels "$results/bench.json")
  python3 tools/bench_pytorch.py "${files[@]}" --json "$results/pytorch.json" >"$results/pytorch.txt"
}
export -f pytorch
if command -v python3 >/dev/null; then
  step pytorch 60 bash -c pytorch
  cat "$results/pytorch.txt" 2>/dev/null
else
  echo "pytorch                  skipped: no python3 here"
fi

{
  printf '{"gpu": "%s", "seconds": %d, "steps": [' "$(sed -n '1s/ (UUID.*//p' "$results/gpus.txt")" "$SECONDS"
  (IFS=,; printf '%s' "${steps[*]}")
  printf '], "pytorch": '
  cat "$results/pytorch.json" 2>/dev/null || printf null
  printf '}\n'
} >"$results/summary.json"
if ((${#failures[@]})); then
  echo "gpu_check: ${#failures[@]} failed:"
  printf '  %s\n' "${failures[@]}"
  exit 1
fi
echo "gpu_check: all passed in $SECONDS s; $results/summary.json"
