#!/usr/bin/env bash
# Configures (once) and builds a preset, quietly where there is nothing to do:
#   scripts/build.sh [PRESET [TARGET...]]        default: release, everything
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
shift || true
targets=()
for target in "$@"; do targets+=(--target "$target"); done
if [[ ! -f build/$preset/build.ninja ]]; then cmake --preset "$preset"; fi
cmake --build --preset "$preset" "${targets[@]}"
