# waymark: build, test, measure. `make demo` and `make test` need only Go, and
# Debian's packages for what they run on; as root they install those themselves.

GO       ?= go
CLANG    := clang-19
KERNELS  := 6.1 6.12
FUZZTIME ?= 2s
LDFLAGS  := -s -w

# Debian packages, by what needs them.
TEST_PACKAGES := qemu-system-x86 kmod xz-utils cpio tcpdump tshark chromium
GEN_PACKAGES  := clang-19 llvm-19 libbpf-dev clang-format-19
BENCH_PACKAGES := gcc libc6-dev libmnl-dev

.PHONY: all build generate demo scenarios test test-host test-vm fuzz bench soak lint deps gen-deps drift image clean help

all: build

help: ## say what there is to make
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

build: ## the static binary ./waymark
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o waymark ./cmd/waymark

generate: gen-deps ## compile the BPF programs again
	$(GO) generate ./bpf

demo: build ## the Meridio lab, traced; without root, a recording of it
	@scenarios/demo.sh ./waymark

scenarios: deps ## record the scenario library anew: each fault of the labs, as root
	@.ci/scenarios.sh 6.12

test: deps gen-deps ## everything: generated code, host kernel, both VMs, fuzzing
	@.ci/test.sh "$(KERNELS)" "$(FUZZTIME)"

bench: ## what tracing and balancing cost, measured here
	@if [ "$$(id -u)" = 0 ]; then .ci/packages.sh $(BENCH_PACKAGES) $(TEST_PACKAGES); fi
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench . -benchtime 1s ./tracer ./tracer/filter ./nfqlb ./decoder ./decoder/pcapng
	WAYMARK_BENCH=1 $(GO) test -count=1 -timeout 5m -run '^TestEncoderIsFast$$' -v ./decoder/pcapng
	WAYMARK_BENCH=1 $(GO) test -count=1 -timeout 20m -run '^TestOverhead$$|^TestDropsLoad$$|^TestRecordAtSpeed$$|^TestReplayAtSpeed$$' -v ./cmd/waymark
	.ci/bench-vm.sh "$(KERNELS)"
	WAYMARK_BENCH=1 $(GO) test -count=1 -timeout 20m -run '^TestBenchLimits|^TestCompare' -v ./nfqlb
	WAYMARK_BENCH=1 $(GO) test -count=1 -timeout 20m -run '^TestFastPathRates' -v ./nfqlb

SOAK_PACKETS ?= 50000000

soak: ## 50 million packets through the balancer while everything around it changes; 1,000 connections at a time traced
	@if [ "$$(id -u)" = 0 ]; then .ci/packages.sh $(TEST_PACKAGES); fi
	.ci/soak-vm.sh 6.12
	WAYMARK_SOAK=1 WAYMARK_SOAK_PACKETS=$(SOAK_PACKETS) $(GO) test -count=1 -timeout 60m -run '^TestSoak$$' -v ./nfqlb

lint: gen-deps ## vet, staticcheck, gofumpt, clang-format
	@.ci/lint.sh

deps:
	@.ci/packages.sh $(TEST_PACKAGES)

gen-deps:
	@.ci/packages.sh $(GEN_PACKAGES)

image: ## the container image
	docker build -t waymark .

clean:
	rm -f waymark
