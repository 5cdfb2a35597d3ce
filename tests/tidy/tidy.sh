#!/usr/bin/env bash
# Style that a reader relies on, as a test: tests/tidy/tidy.sh [SOURCE-DIR]
#   - includes only point down the layers, and the three programs never include each other
#   - no file over 700 lines, no function over 90
#   - every folder with code has a README
#   - links in Markdown lead somewhere
#   - nothing unfinished that a user could reach
set -uo pipefail
cd "${1:-$(dirname "$0")/../..}"
failures=0
fail() { echo "tidy: $*"; failures=$((failures + 1)); }

sources=$(git ls-files '*.cc' '*.h' '*.cu' '*.cuh' 2>/dev/null ||
            find . -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

# folder: folders whose headers it may include
declare -A allowed=(
  [base]="base"
  [kernels]="base kernels"
  [parallel]="base kernels parallel"
  [worker]="base kernels parallel worker trireme"
  [coordinator]="base parallel coordinator trireme"
  [cluster]="base kernels parallel cluster trireme"
)
own='base|kernels|parallel|worker|coordinator|cluster|tests|trireme'
for folder in "${!allowed[@]}"; do
  while IFS=: read -r file line included; do
    [[ " ${allowed[$folder]} " == *" $included "* ]] ||
      fail "$file:$line: $folder must not include from $included"
  done < <(grep -rnoE "^#include \"($own)/" "$folder" --include='*.h' --include='*.cc' \
             --include='*.cu' --include='*.cuh' | sed -E 's/#include "([a-z]+)\//\1/')
done

# Only the layers, the engine's own setup and the communicators themselves talk to other ranks.
while read -r file; do fail "$file: collectives belong in worker/layers"; done < <(
  grep -rlE 'AllReduceSum\(' worker --include='*.cc' | grep -v '^worker/layers/')

for file in $sources; do
  lines=$(wc -l <"$file")
  ((lines <= 700)) || fail "$file: $lines lines; is it still one concept?"
  awk -v file="$file" '
    /^[A-Za-z].*\{$/ || /^  [A-Za-z].*\) (const )?(override )?\{$/ { if (!depth) { start = NR } }
    /^\}/ || /^  \}$/ { if (start && NR - start > 90) print file ":" start ": " NR - start " lines in a function"; start = 0 }
    /^(namespace|class|struct|enum)/ { start = 0 }
  ' "$file"
done > /tmp/tidy_functions.$$
while read -r line; do fail "$line"; done </tmp/tidy_functions.$$
rm -f /tmp/tidy_functions.$$

for folder in base kernels kernels/cuda parallel worker worker/layers coordinator coordinator/text cluster proto models/pilot; do
  [[ -f $folder/README.md ]] || fail "$folder: no README.md"
done

while IFS= read -r document; do
  while IFS= read -r link; do
    target=${link%%#*}
    [[ -z $target || $target == *://* || $target == mailto:* ]] && continue
    [[ -e $(dirname "$document")/$target ]] || fail "$document: broken link $link"
  done < <(grep -oE '\]\([^)]+\)' "$document" | sed -E 's/^\]\((.*)\)$/\1/')
done < <(git ls-files '*.md')

marks='TO''DO|FIX''ME|XX''X|HA''CK'
while read -r line; do fail "unfinished: $line"; done < <(
  git grep -nwE "$marks" -- '*.cc' '*.h' '*.cu' '*.cuh' '*.proto' '*.sh' '*.py' '*.txt' ':!tests/golden' ':!models' || true)

if command -v clang-format-14 >/dev/null; then
  while read -r file; do fail "$file: not clang-formatted"; done < <(
    for file in $sources; do clang-format-14 "$file" | cmp -s - "$file" || echo "$file"; done)
else
  echo "tidy: clang-format-14 is not installed; formatting was not checked (scripts/setup.sh --tidy)"
fi

if ((failures)); then echo "tidy: $failures found"; exit 1; fi
echo "tidy: clean"
