#!/usr/bin/env bash
# Replays one seed of the scheduler's simulation: scripts/simulate.sh SEED [--trace]
# With --trace it prints every arrival, plan and result.
set -euo pipefail
cd "$(dirname "$0")/.."
if (($# < 1)); then
  echo "usage: scripts/simulate.sh SEED [--trace]" >&2
  exit 2
fi
preset=${TRIREME_PRESET:-release}
[[ -f build/$preset/build.ninja ]] || cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" --target simulate >&2
"build/$preset/bin/simulate" "$@"
