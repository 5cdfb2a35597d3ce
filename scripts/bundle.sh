#!/usr/bin/env bash
# Packs what scripts/gpu_check.sh needs on a machine with a GPU and none of our packages:
#   scripts/bundle.sh [BUILD-DIR [OUT-DIR]]        default: build/cuda, build/bundle
# BUILD-DIR is a build with CUDA (cmake --preset cuda). The tree has the programs, stripped, with every shared
# library they need, the C library too, but for CUDA's own (libcudart, libcublas, libnccl, libcuda); Open MPI with
# its plugins; the pilot model; golden files. It can be copied anywhere, and must stay under 64 MiB.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build/cuda}
out=${2:-build/bundle}
bytes_max=$((64 * 1024 * 1024))
# Programs that must be there, and those that are taken if they are.
required=(trireme trireme-coordinator trireme-worker)
optional=(cuda_kernels_gpu_test cuda_bench)
theirs='^(libcuda|libcudart|libcublas|libcublasLt|libnccl|libnvidia-.*|libnvrtc.*)\.so'

fail() { echo "bundle: $1" >&2; exit 1; }
for program in "${required[@]}"; do
  [[ -x $build/bin/$program ]] ||
    fail "no $build/bin/$program; run: cmake --preset cuda && cmake --build build/cuda --target cuda trireme trireme-coordinator"
done
rm -rf "$out"
mkdir -p "$out"/{bin,libexec,lib,scripts,openmpi/bin}

# The libraries that a program or library needs, but for CUDA's.
copy_libraries() {
  local name path
  while read -r name path; do
    [[ $name =~ $theirs ]] && continue
    [[ -e $out/lib/$name ]] || cp -L "$path" "$out/lib/$name"
  done < <(ldd "$1" | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }')
}

# Starts a program with the bundle's C library, whatever the machine's is; CUDA's libraries are found by
# TRIREME_CUDA_LIBRARIES, which gpu_check.sh sets.
wrap() {
  cat >"$out/bin/$1" <<'WRAPPER'
#!/usr/bin/env bash
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export OPAL_PREFIX=$root/openmpi PMIX_INSTALL_PREFIX=$root/openmpi/pmix
export OMPI_MCA_mca_base_component_path=$root/openmpi/plugins PMIX_MCA_mca_base_component_path=$root/openmpi/pmix/plugins
export LD_LIBRARY_PATH=$root/lib/none
exec "$root/lib/ld-linux-x86-64.so.2" --library-path "$root/lib:${TRIREME_CUDA_LIBRARIES:-}" \
  "$root/libexec/$(basename "$0")" "$@"
WRAPPER
  chmod +x "$out/bin/$1"
}

add_program() {  # PATH NAME
  cp -L "$1" "$out/libexec/$2"
  strip "$out/libexec/$2"
  copy_libraries "$1"
  wrap "$2"
}

for program in "${required[@]}"; do add_program "$build/bin/$program" "$program"; done
for program in "${optional[@]}"; do
  if [[ -x $build/bin/$program ]]; then add_program "$build/bin/$program" "$program"
  else echo "bundle: without $program, which $build does not have"; fi
done
cp -L /lib64/ld-linux-x86-64.so.2 "$out/lib/"

# Open MPI finds its parts by OPAL_PREFIX and the paths that the wrapper sets.
add_program "$(readlink -f "$(command -v mpirun)")" mpirun
mpi=$(dirname "$(ldd "$build/bin/trireme-worker" | awk '/libmpi\.so/ { print $3 }')")
mkdir -p "$out/openmpi/plugins" "$out/openmpi/share" "$out/openmpi/pmix/plugins"
for plugin in "$mpi"/openmpi/lib/openmpi3/*.so; do
  # What drives networks that a single machine does not need would bring many libraries; OpenSHMEM, debuggers' hooks,
  # reductions by MPI and topologies are not used, nor the collectives and one-sided parts that have others in their place.
  case $(basename "$plugin") in
    *atomic* | *memheap* | *scoll* | *sshmem* | *ucx* | *ofi* | *psm* | *usnic* | *openib* | *fs_* | *io_romio* | *lsf* | *tm.so) continue ;;
    *dbg_msgq* | *monitoring* | *vprotocol* | *op_avx* | *topo_treematch* | *coll_han* | *coll_adapt* | *osc_rdma*) continue ;;
  esac
  cp -L "$plugin" "$out/openmpi/plugins/"
  copy_libraries "$plugin"
done
for plugin in "$mpi"/pmix2/lib/pmix/*.so; do
  [[ -e $plugin ]] || continue
  cp -L "$plugin" "$out/openmpi/pmix/plugins/"
  copy_libraries "$plugin"
done
cp -rL /usr/share/openmpi "$out/openmpi/share/"
find "$out/lib" "$out/openmpi" -name '*.so*' ! -name 'ld-linux*' -exec strip --strip-unneeded {} + 2>/dev/null || true

mkdir -p "$out/models" "$out/tests/golden" "$out/tools"
mkdir "$out/models/pilot"
cp models/pilot/{config.json,generation_config.json,model.safetensors,tokenizer.json,tokenizer_config.json} \
  "$out/models/pilot/"
cp tests/golden/quant.json "$out/tests/golden/"
cp tools/{bench_engine,bench_pytorch,make_random_checkpoint}.py "$out/tools/"
cp scripts/gpu_check.sh scripts/processes.sh "$out/scripts/"
{ echo "commit $(git rev-parse HEAD 2>/dev/null || echo unknown)"; echo "build $build"; } >"$out/ORIGIN"

bytes=$(du -sb "$out" | cut -f1)
((bytes < bytes_max)) || { du -ab "$out" | sort -rn | sed -n 1,20p >&2; fail "$bytes bytes; at most $bytes_max: build for one kind of GPU, -DCMAKE_CUDA_ARCHITECTURES=90a-real"; }
# Whatever a program still misses must be CUDA's.
for program in "$out"/libexec/*; do
  while read -r name; do
    [[ -e $out/lib/$name || $name =~ $theirs ]] || fail "$(basename "$program") needs $name, which is not in the bundle"
  done < <(objdump -p "$program" | awk '$1 == "NEEDED" { print $2 }')
done
echo "bundle: $out, $((bytes / 1024 / 1024)) MiB of 64; there: scripts/gpu_check.sh [RESULTS-DIR]"
