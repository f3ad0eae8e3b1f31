#!/bin/bash
# drift.sh: fail if the committed BPF objects are not what the sources make.
set -euo pipefail
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp bpf/*_bpfel.* "$before"
restore() { cp "$before"/* bpf/; rm -rf "$before"; }
trap restore EXIT
go generate ./bpf
for f in "$before"/*; do
	cmp "$f" "bpf/$(basename "$f")" || { echo "run make generate and commit bpf/"; exit 1; }
done
