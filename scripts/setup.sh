#!/usr/bin/env bash
# Installs the Debian packages that building, testing and running need. Safe to run again.
# CUDA, NCCL and UCX are optional and not installed here; the configure summary says what was found.
set -euo pipefail

packages=(
  build-essential cmake ninja-build pkg-config git ca-certificates curl
  libabsl-dev libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
  libopenmpi-dev openmpi-bin
  nlohmann-json3-dev libssl-dev libpcre2-dev libutf8proc-dev libspdlog-dev libcli11-dev zlib1g-dev
  prometheus-cpp-dev libhwloc-dev libsqlite3-dev
  libgtest-dev libsimde-dev libbenchmark-dev libboost-dev libboost-context-dev
)
if [[ "${1:-}" == --fuzz ]]; then packages+=(clang-14 libclang-rt-14-dev); fi
if [[ "${1:-}" == --tidy ]]; then packages+=(clang-format-14 clang-tidy-14); fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [[ $status == ii* ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  echo "setup: all ${#packages[@]} Debian packages are installed"
  exit 0
fi

echo "setup: installing ${#missing[@]} Debian packages: ${missing[*]}"
run=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || { echo "setup: run as root, or install sudo" >&2; exit 1; }
  run=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${run[@]}" apt-get update -qq
"${run[@]}" apt-get install -y --no-install-recommends "${missing[@]}" |
  grep --line-buffered -E '^(Setting up|Get:[0-9]*0 )' || true
for package in "${missing[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [[ $status == ii* ]] || { echo "setup: $package could not be installed" >&2; exit 1; }
done
echo "setup: done"
