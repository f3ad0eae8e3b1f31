#!/bin/sh
# demo.sh WAYMARK: the main job, in one minute.
#
# As root it brings the Meridio lab up in network namespaces of its own, traces
# one TCP connection over IPv4 and one over IPv6 to the VIP, then breaks the
# lab and shows the drop. Without root it replays recordings of the same, which
# are in the program.
set -eu
waymark=$1
say() { printf '\n\033[1m%s\033[0m\n\n' "$*" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9;]*m//g'; fi; }

if [ "$(id -u)" != 0 ]; then
	say "Not root: these are recordings of the demo, replayed."
	for f in healthy-v4 healthy-v6 no-listener; do
		say "waymark replay meridio/$f"
		"$waymark" replay "meridio/$f"
	done
	say "waymark replay --list"
	"$waymark" replay --list
	exit 0
fi

err=$(mktemp)
finish() {
	[ -z "${tracer-}" ] || kill "$tracer" 2>/dev/null || true
	"$waymark" lab down meridio >/dev/null 2>&1 || true
	rm -f "$err"
}
trap finish EXIT
trap 'exit 1' INT TERM
netns=
for n in gw lb px t1 t2 t3; do netns="$netns --netns wm-meridio-$n"; done

# trace FLAGS -- FILTER... -- TRAFFIC...: trace while the traffic runs.
trace() {
	flags=
	while [ "$1" != -- ]; do flags="$flags $1"; shift; done
	shift
	filter=
	while [ "$1" != -- ]; do filter="$filter $1"; shift; done
	shift
	say "waymark trace$flags$filter"
	# shellcheck disable=SC2086 # lists of words
	"$waymark" trace $netns $flags $filter 2>"$err" &
	tracer=$!
	until grep -q 'tracing on' "$err"; do
		kill -0 "$tracer" 2>/dev/null || { cat "$err" >&2; exit 1; }
		sleep 0.05
	done
	"$waymark" lab traffic meridio -c 1 "$@" >/dev/null 2>&1 || true
	wait "$tracer" || { cat "$err" >&2; exit 1; }
	tracer=
}

say "waymark lab up meridio"
"$waymark" lab up meridio
trace -c 2 -- tcp any 10.0.0.1:5000 --
trace -c 2 -- tcp any '[1000::1:a00:1]:5000' -- -6
say "waymark lab fault meridio no-listener"
"$waymark" lab fault meridio no-listener
trace -c 1 -- tcp any 10.0.0.1:5000 --
