#!/usr/bin/env bash
# Builds what checks the kernels on a GPU and packs it with the shared libraries it needs, except
# CUDA's own and glibc, into a folder that runs on a machine without our packages.
#   scripts/bundle.sh [DIR]        default build/bundle; at most 64 MiB
set -euo pipefail
cd "$(dirname "$0")/.."
bundle=${1:-build/bundle}
limit_mib=64

command -v nvcc >/dev/null || { echo "bundle: the CUDA toolkit is missing: no nvcc on PATH" >&2; exit 1; }
cmake --preset cuda >/dev/null
cmake --build --preset cuda --target cuda

rm -rf "$bundle"
mkdir -p "$bundle/bin" "$bundle/lib" "$bundle/scripts"
cp build/cuda/bin/cuda_kernels_gpu_test build/cuda/bin/cuda_bench "$bundle/bin/"
cp scripts/gpu_check.sh "$bundle/scripts/"
strip "$bundle"/bin/*

# Of the machine that runs it: the C library, which must fit its kernel, and CUDA.
left_out='^(libc|libm|libdl|librt|libpthread|ld-linux.*|libcuda|libcudart|libcublas|libcublasLt|libnvidia.*)\.so'
for binary in "$bundle"/bin/*; do
  ldd "$binary" | awk '$2 == "=>" && $3 ~ /^\// {print $3}'
done | sort -u | while read -r library; do
  name=$(basename "$library")
  if [[ ! $name =~ $left_out ]]; then cp -L "$library" "$bundle/lib/"; fi
done
git rev-parse --short HEAD >"$bundle/commit" 2>/dev/null || true

mib=$(du -sm "$bundle" | cut -f1)
echo "bundle: $bundle, $mib MiB: $(ls "$bundle/bin" | tr '\n' ' ')and $(ls "$bundle/lib" | wc -l) libraries"
if ((mib > limit_mib)); then echo "bundle: more than $limit_mib MiB" >&2; exit 1; fi
