#!/bin/sh
# lint.sh: everything that must be clean. Tools come through the Go module proxy.
set -eu
go vet ./...
GOOS=windows GOARCH=arm64 CGO_ENABLED=0 go vet ./cmd/waymark
bad=$(go run mvdan.cc/gofumpt@v0.8.0 -l $(git ls-files '*.go' | grep -v '_bpfel.go$'))
[ -z "$bad" ] || { echo "not formatted with gofumpt:"; echo "$bad"; exit 1; }
go run honnef.co/go/tools/cmd/staticcheck@v0.7.0 ./...
clang-format-19 --dry-run -Werror bpf/*.c bpf/*.h
echo "lint: clean"
