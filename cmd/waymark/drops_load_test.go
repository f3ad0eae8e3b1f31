// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"waymark/scenarios"
)

// What `waymark drops` may take of a flood that is lost.
const (
	loadRate   = 200_000 // drops per second
	loadCPU    = 1.0     // of a core
	loadMemory = 512     // MiB
	loadOthers = 0.9     // of the rate that other flows have without it
	loadLines  = 400     // printed in loadTime
	loadTime   = 10 * time.Second
)

// TestDropsLoad measures `waymark drops` while the lab's load balancer throws
// away 200,000 packets a second of 256 flows: that each is counted, what it takes
// of a core and of memory, how much it prints, and what is left of other flows'
// rate. `make bench` runs it.
func TestDropsLoad(t *testing.T) {
	if os.Getenv("WAYMARK_BENCH") == "" {
		t.Skip("a measurement: make bench runs it")
	}
	w := labUpFor(t)
	blackhole(t, namespace(t, w, "lb"), "10.99.0.0/16")
	lost, other := netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("172.16.1.6")

	path := newForwarding(t, w, meridioWay)
	args := []string{"drops", "--netns", w.Namespace("lb"), "net 10.99.0.0/16"}
	t.Run("counted", func(t *testing.T) {
		before := received(t, w)
		tr := start(t, args...)
		sent := path.flood(context.Background(), t, lost, loadRate, loadTime)
		out := string(tr.stop(t))
		arrived := received(t, w) - before
		total, lines, rate := totalLine(t, out), strings.Count(out, "\n"), float64(sent)/loadTime.Seconds()
		took := (tr.cmd.ProcessState.UserTime() + tr.cmd.ProcessState.SystemTime()).Seconds() / loadTime.Seconds()
		memory := tr.cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss >> 10
		t.Logf("%d packets sent, %.0f a second; %d arrived, %d drops counted, %.2f of a core, %d MiB, %d lines printed",
			sent, rate, arrived, total, took, memory, lines)
		if rate < 0.95*loadRate || uint64(sent) != total || arrived < total {
			t.Errorf("want %d a second, each counted", loadRate)
		}
		if took > loadCPU || memory > loadMemory || lines > loadLines {
			t.Errorf("want at most %.1f of a core, %d MiB, %d lines", loadCPU, loadMemory, loadLines)
		}
	})
	t.Run("other flows", func(t *testing.T) {
		var ratios []float64
		for range 7 {
			rate := func(watched bool) float64 {
				if watched {
					tr := start(t, args...)
					defer tr.stop(t)
				}
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan int)
				go func() { done <- path.flood(ctx, t, lost, loadRate, time.Minute) }()
				defer func() { cancel(); <-done }()
				return path.measure(t, other, time.Second)
			}
			plain := rate(false)
			ratios = append(ratios, rate(true)/plain)
		}
		t.Logf("other flows keep %.3f of their rate (paired median; quartiles %.3f %.3f)", median(ratios), quantile(ratios, .25), quantile(ratios, .75))
		if median(ratios) < loadOthers {
			t.Errorf("want %.2f", loadOthers)
		}
	})
}

// flood sends rate packets a second to dst for d, or until ctx ends, from the
// CPU that measure does not use, and returns how many.
func (p *forwarding) flood(ctx context.Context, t *testing.T, dst netip.Addr, rate float64, d time.Duration) int {
	const flows, batch = 256, 64
	frames := make([][]byte, flows)
	for i := range frames {
		frames[i] = p.frame(t, dst, i)
	}
	done := make(chan int)
	go func() {
		runtime.LockOSThread() // the thread stays pinned, so it ends here
		var cpu unix.CPUSet
		cpu.Set(runtime.NumCPU() - 1)
		_ = unix.SchedSetaffinity(0, &cpu)
		var msgs [batch]mmsghdr
		var iovs [batch]unix.Iovec
		sent, start := 0, time.Now()
		for since := time.Duration(0); since < d && ctx.Err() == nil; since = time.Since(start) {
			if float64(sent) > since.Seconds()*rate {
				unix.Nanosleep(&unix.Timespec{Nsec: 100_000}, nil)
				continue
			}
			for k := range msgs {
				f := frames[(sent+k)%flows]
				iovs[k].Base = &f[0]
				iovs[k].SetLen(len(f))
				msgs[k].hdr.Iov, msgs[k].hdr.Iovlen = &iovs[k], 1
			}
			n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(p.socket), uintptr(unsafe.Pointer(&msgs[0])), batch, 0, 0, 0)
			if e == 0 {
				sent += int(n)
			}
		}
		done <- sent
	}()
	return <-done
}

// received is how many packets have come in by the balancer's outer device, as
// the kernel counts.
func received(t *testing.T, w *scenarios.World) (n uint64) {
	t.Helper()
	if err := w.Inside("lb", func() error {
		l, err := netlink.LinkByName("nsm-1")
		if err == nil {
			n = l.Attrs().Statistics.RxPackets
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// totalLine is the number that the last lines of drops begin with.
func totalLine(t *testing.T, out string) uint64 {
	t.Helper()
	for line := range strings.Lines(out) {
		var n string
		if _, err := fmt.Sscanf(line, "%s drops in", &n); err == nil {
			total, err := strconv.ParseUint(strings.ReplaceAll(n, ",", ""), 10, 64)
			if err == nil {
				return total
			}
		}
	}
	t.Errorf("no totals: %s", out)
	return 0
}
