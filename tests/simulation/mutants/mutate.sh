#!/usr/bin/env bash
# mutate.sh SCRIPT SOURCE OUTPUT: plants the bug of a sed script; fails if it finds no place for it.
set -euo pipefail
sed -f "$1" "$2" >"$3.new"
if cmp -s "$2" "$3.new"; then
  rm -f "$3.new"
  echo "$1 changes nothing in $2: has the code changed? Adapt the script" >&2
  exit 1
fi
mv "$3.new" "$3"
