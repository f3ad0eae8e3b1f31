#!/bin/bash
# soak-vm.sh KERNEL: a thousand connections at a time through each lab, on Debian's
# kernel under qemu: who waymark says answered is who did, the routes are the
# kernel's, no journey is torn. `make test` does the same with fewer. On 6.1 a
# packet there waits for longer than waymark waits for it.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
CGO_ENABLED=0 go build -trimpath -o "$out/waymark" ./cmd/waymark
CGO_ENABLED=0 go test -c -o "$out/waymark.test" ./cmd/waymark
go build -o "$out/vmtest" ./scenarios/vm/vmtest
"$out/vmtest" --kernel "$1" --memory 4096 --timeout 20m --dir cmd/waymark --file testdata --file "$out/waymark:/usr/bin/waymark" --file /bin/sleep:/bin/sleep \
	--env WAYMARK_BIN=/usr/bin/waymark --env WAYMARK_CI=1 "$out/waymark.test" -test.v -test.timeout 19m -test.run '^Test(NamesWhatHappened|TraceTellsWhatIPVSDecides|TraceTellsWhatNATDoes)$'
