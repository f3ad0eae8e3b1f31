// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"waymark/scenarios"
)

// The binary under the name nfqlb takes nfqlb's place.

// asNfqlb links the binary under test as nfqlb.
func asNfqlb(t *testing.T) string {
	t.Helper()
	bin, err := filepath.Abs(waymarkBin)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "nfqlb")
	if err := os.Symlink(bin, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// nfqlbSays runs an nfqlb command line in the calling thread's network
// namespace and compares what it prints, on stdout and stderr, and its exit
// code. want is a regular expression.
func nfqlbSays(t *testing.T, bin, line, want string, code int) {
	t.Helper()
	out, err := exec.Command(bin, strings.Fields(line)...).CombinedOutput()
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		t.Errorf("nfqlb %s: %v", line, err)
	}
	if got != code || !regexp.MustCompile("^(?s:"+want+")$").Match(out) {
		t.Errorf("nfqlb %s: exit %d, %q; want exit %d, %s", line, got, out, code, want)
	}
}

// labWithNfqlb is the Meridio lab, driven by nfqlb's commands alone.
func labWithNfqlb(t *testing.T, bin string) *scenarios.World {
	t.Helper()
	needRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w, err := scenarios.Up(ctx, scenarios.Options{Lab: "meridio", Executable: waymarkBin, Balancer: bin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Down(); err != nil {
			t.Errorf("take the lab down: %v", err)
		}
	})
	return w
}

// answers sends connections and datagrams of both families. Every one must be
// answered, and once the balancer has read the last change, by exactly these
// targets.
func answers(t *testing.T, w *scenarios.World, targets ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, traffic := range []scenarios.Traffic{{}, {IPv6: true}, {UDP: true}, {UDP: true, IPv6: true}} {
		traffic.Connections, traffic.Timeout = 40, 20*time.Second
		for {
			sum, err := w.Send(ctx, traffic, nil)
			if err != nil {
				t.Fatalf("%+v: not by %v alone: %+v, %v", traffic, targets, sum, err)
			}
			if sum.Answered != sum.Sent {
				t.Fatalf("%+v: %+v", traffic, sum)
			}
			if slices.Equal(slices.Sorted(maps.Keys(sum.Targets)), targets) {
				break
			}
		}
	}
}

// Meridio starts `nfqlb flowlb`, makes a stream's table, and then adds and
// removes targets and flows; the lab has done the first half.
func TestNfqlbMeridioSequence(t *testing.T) {
	bin := asNfqlb(t)
	w := labWithNfqlb(t, bin)
	answers(t, w, "target-1", "target-2", "target-3")
	in := func(line, want string, code int) {
		t.Helper()
		if err := w.Inside("lb", func() error { nfqlbSays(t, bin, line, want, code); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	in("show --shm=tshm-stream-a", "Shm: tshm-stream-a\n  Fw: own=0\n  Maglev: M=9973, N=100\n   Lookup:( [0-9]+){25}...\n   Active: 5048\\(47\\) 5058\\(57\\) 5067\\(66\\)\n", 0)
	in("flow-list-names", `\[\n  "tshm-stream-a-flow-a"\n\]\n`, 0)

	// A target goes and comes back.
	in("deactivate --index=57 --shm=tshm-stream-a", "", 0)
	in("fwmark --shm=tshm-stream-a --proto=tcp --src=20.0.0.7:40000 --dst=10.0.0.1:5000 --hash_mode=0",
		`\{ "hash": 2882910532, "lookupindex": 5449, "activeindex": [0-9]+, "fwmark": (5048|5067) \}`+"\n", 0)
	answers(t, w, "target-1", "target-3")
	in("activate --index=57 --shm=tshm-stream-a 5058", "", 0)
	answers(t, w, "target-1", "target-2", "target-3")

	// A second stream, of which a flow is above the first one's; then without it.
	in("init --ownfw=0 --shm=tshm-stream-b --M=10000 --N=100", "M adjusted; 10000 -> 9973\n", 0)
	t.Cleanup(func() { os.Remove("/dev/shm/tshm-stream-b") })
	in("activate --index=66 --shm=tshm-stream-b 5067", "", 0)
	in("flow-set --name=tshm-stream-b-flow-b --target=tshm-stream-b --prio=10 --protocols=tcp,udp --dsts=10.0.0.1/32,1000::1:a00:1/128"+
		" --srcs=200.100.0.0/24,200:100::/64 --dports=5000,6000-6003 --sports=1024-65535", "OK.*", 0)
	answers(t, w, "target-3")
	in("flow-list --name=tshm-stream-b-flow-b", `\{\n  "name": "tshm-stream-b-flow-b",\n  "priority": 10,\n  "protocols": \[ "tcp", "udp" \],.*`+
		`"matches_count": [1-9][0-9]*,\n  "user_ref": "tshm-stream-b"\n\}\n?`, 0)
	in("flow-set --name=tshm-stream-b-flow-b --target=no-such", "FAIL: .*", nfqlbRefused)
	in("flow-set --name=tshm-stream-b-flow-b --target=tshm-stream-b --protocols=tcp --match=tcp[2:2]=5001", "OK.*", 0)
	answers(t, w, "target-1", "target-2", "target-3")
	in("flow-delete --name=tshm-stream-b-flow-b", "OK.*", 0)
	in("delete --shm=tshm-stream-b", "", 0)
	in("flow-list-names", `\[\n  "tshm-stream-a-flow-a"\n\]\n`, 0)
	answers(t, w, "target-1", "target-2", "target-3")

	// Promiscuous ping, of both families.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, vip := range []string{"10.0.0.1", "1000::1:a00:1"} {
		if _, err := w.Ping(ctx, netip.MustParseAddr(vip), 7); err != nil {
			t.Error(err)
		}
	}
}

// `nfqlb lb` gives every packet a target of one table, whatever its port.
func TestNfqlbWithoutFlows(t *testing.T) {
	bin := asNfqlb(t)
	w := labWithNfqlb(t, bin)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := w.Fault(ctx, "no-listener"); err != nil { // ends flowlb
		t.Fatal(err)
	}
	serve := func(args ...string) *process {
		var p *process
		shm := fmt.Sprintf("wm-test-lb-%d-%d", os.Getpid(), len(args))
		t.Cleanup(func() { os.Remove("/dev/shm/" + shm) })
		if err := w.Inside("lb", func() error {
			p = startProgram(t, ctx, true, bin, append([]string{"lb", "--hash_mode=0", "--ft_shm=" + shm}, args...)...)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if p == nil || !p.await(`"ready"`) {
			t.FailNow()
		}
		return p
	}
	first := serve("--tshm=tshm-stream-a", "--queue=0:3", "--qlength=1024", "--sctp_encap=9899")
	second := serve("--tshm=tshm-stream-a", "--queue=9") // takes another queue, not the sockets
	answers(t, w, "target-1", "target-2", "target-3")
	if err := w.Inside("lb", func() error {
		nfqlbSays(t, bin, "flow-list-names", `\[\n  "#sctp-encap",\n  "sctp-encap",\n  "all"\n\]\n`, 0)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, vip := range []string{"10.0.0.1", "1000::1:a00:1"} {
		if _, err := w.Ping(ctx, netip.MustParseAddr(vip), 7); err != nil {
			t.Error(err)
		}
	}
	second.end(unix.SIGTERM)
	first.end(unix.SIGTERM)
}

// Exit codes and where things are printed, without a balancer.
func TestNfqlbExitCodes(t *testing.T) {
	bin := asNfqlb(t)
	t.Setenv("NFQLB_FLOW_ADDRESS", "unix:wm-test-nobody")
	for _, c := range []struct {
		line, stdout, stderr string
		code                 int
	}{
		{"", "usage: nfqlb COMMAND", "", 0},
		{"--help", "usage: nfqlb COMMAND", "", 0},
		{"flow-set --help", "usage: nfqlb flow-set", "", 0},
		{"primebelow 10000", "9973\n", "", 0},
		{"activate --shm=wm-test-nosuch 5", "", "nfqlb: ", nfqlbFailure},
		{"dance", "", "`nfqlb help`", nfqlbFailure},
		{"flow-set --name=a", "", "needs --target", nfqlbFailure},
		{"flow-set --nope", "", "unknown flag", nfqlbFailure},
		{"flow-list", "", "no balancer listens", nfqlbFailure},
		{"flowlb --queue=3:0", "", "neither a number nor a range", nfqlbFailure},
		{"lb --tshm=wm-test-nosuch", "", "wm-test-nosuch", nfqlbFailure},
	} {
		var stdout, stderr bytes.Buffer
		cmd := exec.Command(bin, strings.Fields(c.line)...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) ||
			(c.stdout == "") != (stdout.Len() == 0) || (c.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("nfqlb %s: exit %d, stdout %q, stderr %q; want %+v", c.line, got, stdout.String(), stderr.String(), c)
		}
	}
}
