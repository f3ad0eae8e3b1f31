#!/bin/bash
# bench-vm.sh "KERNELS": what tracing costs an IPVS director, on Debian's kernels
# under qemu. Everything there is slow: only ratios of one run say something. A
# thread for each processor, that the reader of the records has its own. One run of
# twenty hangs in that emulation (see scenarios/vm/machine.go): run it again.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
CGO_ENABLED=0 go build -trimpath -o "$out/waymark" ./cmd/waymark
CGO_ENABLED=0 go test -c -o "$out/waymark.test" ./cmd/waymark
go build -o "$out/vmtest" ./scenarios/vm/vmtest
for k in $1; do
	"$out/vmtest" --kernel "$k" --timeout 5m --accel tcg,thread=multi --dir cmd/waymark --file "$out/waymark:/usr/bin/waymark" --file /bin/sleep:/bin/sleep \
		--env WAYMARK_BIN=/usr/bin/waymark --env WAYMARK_BENCH=1 "$out/waymark.test" -test.v -test.run '^TestOverheadIPVS$'
done
