#!/usr/bin/env bash
# Sets up, builds and runs every test: scripts/test.sh [PRESET] [CTEST-ARGUMENTS...]
# Presets: release (default), asan, tsan.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
shift || true
scripts/setup.sh
scripts/build.sh "$preset"
if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
ctest --preset "$preset" -j "$(nproc)" "$@"
