#!/bin/bash
# fuzz.sh TIME: run every fuzz target for TIME, of which little goes into
# making interesting inputs small.
set -euo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The end of the time, reported by `go test -fuzz` as a failure when a worker is
# busy at that moment; an input that fails is written to a file and named.
time_up() {
	grep -q 'context deadline exceeded' "$log" && ! grep -qE 'Failing input written|panic:|testdata/fuzz/' "$log"
}
grep -rlE '^func Fuzz' --include='*_test.go' . | sort | while read -r file; do
	for target in $(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+).*/\1/p' "$file"); do
		echo "$(dirname "$file") $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 10x "$(dirname "$file")" >"$log" 2>&1 ||
			time_up || { cat "$log"; exit 1; }
	done
done
