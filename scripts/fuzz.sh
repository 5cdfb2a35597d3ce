#!/usr/bin/env bash
# Runs every fuzz target on its corpus under ASan and UBSan: scripts/fuzz.sh [SECONDS-EACH] (default 60)
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
scripts/setup.sh
scripts/setup.sh --fuzz
[[ -f build/fuzz/build.ninja ]] || cmake --preset fuzz
cmake --build --preset fuzz --target fuzz_targets
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
for target in safetensors gguf model_config tokenizer chat_template journal checksums; do
  mkdir -p "$found/$target"
  seeds=("tests/fuzz/corpus/$target")
  if [[ $target == chat_template ]]; then seeds+=(tests/golden/chat/templates); fi
  log=$found/$target.log
  if ! build/fuzz/bin/${target}_fuzz -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 \
    -artifact_prefix="$PWD/fuzz-$target-" "$found/$target" "${seeds[@]}" >"$log" 2>&1; then
    tail -n 40 "$log"
    echo "fuzz: $target FAILED; the input is in fuzz-$target-*"
    exit 1
  fi
  echo "fuzz: $target clean, $(grep -oE 'Done [0-9]+ runs in [0-9]+ second' "$log")s"
done
