#!/bin/bash
# fuzz.sh TIME: run every fuzz target for TIME, of which little goes into
# making interesting inputs small.
set -euo pipefail

# one TIME DIRECTORY TARGET
one() {
	local log
	log=$(mktemp)
	# The end of the time, reported by `go test -fuzz` as a failure when a worker is
	# busy at that moment; an input that fails is written to a file and named.
	time_up() {
		grep -q 'context deadline exceeded' "$log" && ! grep -qE 'Failing input written|panic:|testdata/fuzz/' "$log"
	}
	if go test -run '^$' -fuzz "^$3\$" -fuzztime "$1" -fuzzminimizetime 10x -parallel 1 "$2" >"$log" 2>&1 || time_up; then
		echo "$2 $3: $(grep -oE 'execs: [0-9]+' "$log" | tail -1)"
		rm -f "$log"
	else
		echo "$2 $3 fails:"
		cat "$log"
		rm -f "$log"
		return 1
	fi
}
export -f one

grep -rlE '^func Fuzz' --include='*_test.go' . | sort | while read -r file; do
	sed -nE "s|^func (Fuzz[A-Za-z0-9_]+).*|$(dirname "$file") \1|p" "$file"
done | xargs -P "$(nproc)" -L 1 bash -c 'one "$@"' one "$1"
