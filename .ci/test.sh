#!/bin/bash
# test.sh "KERNELS" FUZZTIME: all tests, and which kernels they ran on.
#
# As root everything runs: on the host's kernel, and on Debian's under qemu. As
# an ordinary user what needs root skips, and says so; with WAYMARK_CI=1 a skip
# is a failure.
set -euo pipefail
kernels=$1 fuzztime=$2
out=$(mktemp -d)
cleanup() {
	for job in $(jobs -p); do
		kill -- "-$job" 2>/dev/null || true
	done
	rm -rf "$out"
}
trap cleanup EXIT
ran="$(uname -r)"
release() { "$out/vmtest" --kernel "$1" --fetch | sed 's/^linux-image-\([^ ]*\).*/\1/'; }
step() { printf '\n== %s (after %ds)\n' "$*" $SECONDS; }

# in_machines KERNEL: what touches a kernel, package by package.
in_machines() {
	for p in $packages; do
		# Short, 500 connections, 50 target changes: every instruction is emulated there.
		flags=-test.short
		# No tcpdump in there; what it is compared with runs on the host.
		[ $p = tracer/filter ] && flags="$flags -test.skip SameAsTcpdump|Fuzz"
		step "Debian kernel $1: $p"
		# shellcheck disable=SC2086 # a list of words
		"$out/vmtest" --kernel "$1" --timeout 15m --dir "$p" --file testdata --file decoder/testdata --file docs --file README.md \
			--file "$out/waymark:/usr/bin/waymark" --file /bin/sleep:/bin/sleep \
			--env WAYMARK_BIN=/usr/bin/waymark --env WAYMARK_CI --env WAYMARK_CONNECTIONS=500 --env WAYMARK_TARGET_CHANGES=50 \
			"$out/$(basename "$p").test" -test.timeout 14m $flags
	done
}

step "generated code is what the sources make"
.ci/drift.sh

step "build: one static binary, without cgo"
CGO_ENABLED=0 go build -trimpath -o "$out/waymark" ./cmd/waymark
if ldd "$out/waymark" 2>/dev/null | grep -q '=>'; then
	echo "waymark is not a static binary" >&2
	exit 1
fi
GOARCH=arm64 CGO_ENABLED=0 go vet ./bpf ./tracer/... ./decoder/... ./nfqlb ./cmd/waymark
# Recordings are read on whatever is on people's desks.
GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 go vet ./bpf ./tracer/... ./decoder/... ./nfqlb ./scenarios ./cmd/waymark
GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 go build -o /dev/null ./cmd/waymark
export WAYMARK_BIN=$out/waymark

step "host kernel $(uname -r)"
go vet ./...
# Those that bring labs up one at a time, there is one lab of a name on a machine;
# beside them the package of the machines, which mostly waits.
labs='^waymark/(cmd/waymark|nfqlb|scenarios|tracer)$'
machines=waymark/scenarios/vm
# shellcheck disable=SC2046 # a list of words
go test -count=1 -timeout 15m $(go list ./... | grep -vE "$labs" | grep -vx $machines)
set -m # a process group for each in the background, to end it whole
go test -count=1 -timeout 15m $machines >"$out/machines.log" 2>&1 &
set +m
# shellcheck disable=SC2046
go test -p 1 -count=1 -timeout 15m $(go list ./... | grep -E "$labs")
wait $! || { cat "$out/machines.log"; exit 1; }
cat "$out/machines.log"

if [ "$(id -u)" = 0 ]; then
	# What touches a kernel runs on every kernel, from the same tables.
	packages="tracer tracer/filter nfqlb scenarios cmd/waymark"
	for p in $packages; do
		CGO_ENABLED=0 go test -c -o "$out/$(basename "$p").test" "./$p"
	done
	go build -o "$out/vmtest" ./scenarios/vm/vmtest
	# A machine is one thread of qemu: side by side.
	set -m
	for k in $kernels; do
		"$out/vmtest" --kernel "$k" --fetch
		{ in_machines "$k"; touch "$out/$k.passed"; } >"$out/$k.log" 2>&1 &
	done
	set +m
	step "Debian kernels $kernels: what each prints comes when all have ended"
	wait
	failed=
	for k in $kernels; do
		[ -e "$out/$k.passed" ] || { failed="$failed $k"; continue; }
		cat "$out/$k.log"
		ran="$ran, $(release "$k")"
	done
	for k in $failed; do
		cat "$out/$k.log" # last, where one looks
	done
	[ -z "$failed" ] || exit 1
elif [ -n "${WAYMARK_CI-}" ]; then
	echo "not root, and CI must not skip the kernels $kernels" >&2
	exit 1
else
	echo "SKIPPED: the tests on kernels $kernels need root"
fi

step "fuzz targets, $fuzztime each"
.ci/fuzz.sh "$fuzztime"

step "all passed"
echo "kernels: $ran"
