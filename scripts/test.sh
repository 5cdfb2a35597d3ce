#!/usr/bin/env bash
# Sets up, builds and runs every test: scripts/test.sh [PRESET] [CTEST-ARGUMENTS...]
# Presets: release (default), asan, tsan.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
shift || true
scripts/setup.sh
scripts/build.sh "$preset"
scripts/build.sh "$preset" cuda  # the CUDA backend, to see that it compiles and links; says so where there is no nvcc
if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
ctest --preset "$preset" -j "$(nproc)" "$@"
