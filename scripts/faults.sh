#!/usr/bin/env bash
# Hundreds of faults under 16 streams, about an hour: scripts/faults.sh [CASE]
# Each case of tests/fault/fault_test.sh with twenty times its faults: 400 ranks killed, 80 of them twice, 60 stopped for
# 1 to 30 s, 60 hosts cut off; every answer must be bit for bit that of the same server before the first fault.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${TRIREME_PRESET:-release}
[[ -f build/$preset/build.ninja ]] || cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" --target trireme trireme-coordinator trireme-worker fault_driver poisoned_worker >&2
FAULTS=${FAULTS:-20} exec tests/fault/fault_test.sh "build/$preset/bin" "$PWD" "${1:-}"
