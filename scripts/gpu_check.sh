#!/usr/bin/env bash
# Checks and measures the CUDA kernels on this machine's GPU, in less than 8 minutes: from a bundle
# (scripts/bundle.sh), which needs only a driver, cuBLASLt and the CUDA runtime, or from a build of the
# preset cuda. Writes a table and JSON.
#   scripts/gpu_check.sh [OUTPUT-DIR]        default gpu_check
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-gpu_check}
bin=$root/bin
[[ -x $bin/cuda_kernels_gpu_test ]] || bin=$root/build/cuda/bin
[[ -d $root/lib ]] && export LD_LIBRARY_PATH=$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
for cuda in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib; do
  [[ -d $cuda ]] && export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$cuda
done

if [[ ! -x $bin/cuda_kernels_gpu_test || ! -x $bin/cuda_bench ]]; then
  echo "gpu_check: no build: cmake --preset cuda && cmake --build --preset cuda --target cuda" >&2
  exit 1
fi
"$bin/cuda_kernels_gpu_test" --gtest_list_tests >/dev/null 2>"$out.probe"
status=$?
if ((status == 77)); then
  echo "gpu_check: $(cat "$out.probe")" >&2
  rm -f "$out.probe"
  exit 1
fi
rm -f "$out.probe"
mkdir -p "$out"
{
  date -u +%F
  cat "$root/commit" 2>/dev/null || git -C "$root" rev-parse --short HEAD
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null
} | tee "$out/machine.txt"

failed=()
# step NAME SECONDS COMMAND...: its output goes to a file; a failure is remembered.
step() {
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$out/$name.txt" 2>&1
  local status=$?
  if ((status == 0)); then
    echo "gpu_check: $name: passed in $((SECONDS - start)) s"
  else
    ((status == 124)) && echo "gpu_check: $name: more than $limit s"
    echo "gpu_check: $name: FAILED ($status); the end of $out/$name.txt:"
    tail -n 25 "$out/$name.txt"
    failed+=("$name")
  fi
}

step kernels 180 "$bin/cuda_kernels_gpu_test" --gtest_brief=1
if command -v compute-sanitizer >/dev/null; then
  # The first shape of each suite: the sanitizer makes kernels a hundred times slower.
  for tool in memcheck racecheck; do
    step "$tool" 90 compute-sanitizer --tool "$tool" --error-exitcode 3 \
      "$bin/cuda_kernels_gpu_test" --gtest_brief=1 --gtest_filter='*/0'
  done
else
  echo "gpu_check: compute-sanitizer is not installed: skipped"
fi
step bench 120 "$bin/cuda_bench" --json "$out/bench.json"
cat "$out/bench.txt"

if ((${#failed[@]} > 0)); then echo "gpu_check: FAILED: ${failed[*]}"; exit 1; fi
echo "gpu_check: all passed; results are in $out"
