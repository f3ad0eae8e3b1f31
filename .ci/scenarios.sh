#!/bin/bash
# scenarios.sh KERNEL: record the scenario library anew, from the labs' tables. What
# this machine's kernel cannot show, it records on Debian's KERNEL under qemu. Only
# when all of it is there does it replace scenarios/LAB/NAME.
set -euo pipefail
kernel=$1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
step() { printf '\n== %s (after %ds)\n' "$*" $SECONDS; }
if [ "$(id -u)" != 0 ]; then
	echo "recording needs root: labs are made of network namespaces" >&2
	exit 3
fi
CGO_ENABLED=0 go build -trimpath -o "$out/waymark" ./cmd/waymark
CGO_ENABLED=0 go test -c -o "$out/waymark.test" ./cmd/waymark
export WAYMARK_BIN=$out/waymark
mkdir "$out/library"

step "host kernel $(uname -r)"
(cd cmd/waymark && "$out/waymark.test" -test.v -test.run '^TestRecordScenarios$' -record-scenarios "$out/library")
mv "$out/library/elsewhere" "$out"
if [ -s "$out/elsewhere" ]; then
	step "Debian kernel $kernel: $(wc -l <"$out/elsewhere") scenarios"
	go build -o "$out/vmtest" ./scenarios/vm/vmtest
	"$out/vmtest" --kernel "$kernel" --timeout 9m --dir cmd/waymark --file "$out/waymark:/usr/bin/waymark" \
		--file "$out/elsewhere:/tmp/wanted" --collect "/tmp/library:$out/library" \
		--env WAYMARK_BIN=/usr/bin/waymark "$out/waymark.test" -test.v -test.timeout 9m \
		-test.run '^TestRecordScenarios$' -record-scenarios /tmp/library -only-scenarios /tmp/wanted
	if [ -s "$out/library/elsewhere" ]; then
		echo "no kernel here shows these:" >&2
		cat "$out/library/elsewhere" >&2
		exit 1
	fi
	rm "$out/library/elsewhere"
fi

step "$(find "$out/library" -name scenario.json | wc -l) scenarios, $(du -sk "$out/library" | cut -f1) KiB: what is printed of them"
for old in scenarios/*/*/scenario.json; do
	rm -rf "$(dirname "$old")"
done
cp -r "$out"/library/* scenarios
unset WAYMARK_BIN # it has the old ones
go test -count=1 -run '^TestReadmeShowsWhatIsPrinted$' ./cmd/waymark -update-readme
go test -count=1 -run '^TestLibrary' ./scenarios ./cmd/waymark
