// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"waymark/decoder"
	"waymark/scenarios"
	"waymark/tracer/place"
)

// TestDropsFlood: of a flood that nobody takes every packet is counted, in few
// lines, and the replay says the same.
func TestDropsFlood(t *testing.T) {
	w := labUpWith(t, scenarios.Options{Lab: "cbr0"})
	sendCase(t, w, journeyCase{traffic: scenarios.Traffic{To: "pod"}}) // the neighbours know each other
	blackhole(t, namespace(t, w, "node"), "10.99.0.0/16")
	file := filepath.Join(t.TempDir(), "flood.pcapng")
	args := append([]string{"drops"}, netnsFlags(w)...)
	tr := start(t, append(args, "--metrics", "127.0.0.1:0", "-w", file, "net 10.99.0.0/16")...)
	top := start(t, append(args, "--top", "net 10.99.0.0/16")...)

	packets := 20_000
	if testing.Short() { // a machine of scenarios/vm takes a minute for as many
		packets = 4_000
	}
	floodUDP(t, namespace(t, w, "p1"), "10.99.0.1:7000", packets, 1)
	awaitMetrics(t, tr, packets)
	live := string(tr.stop(t))
	if n := strings.Count(live, "\n"); n > 60 || !strings.Contains(live, " more in ") || !strings.Contains(live, "because ") {
		t.Errorf("%d lines tell of %d drops:\n%s", n, packets, live)
	}
	if replayed, stderr, code := run0(t, "replay", "--drops", file); code != 0 || replayed != live {
		t.Errorf("replay (exit %d, %s) prints\n%s\nlive printed\n%s", code, stderr, replayed, live)
	}
	if out := string(top.stop(t)); !strings.Contains(out, "RATE/s") || !strings.Contains(out, "udp 10.4.0.11 → 10.99.0.1:7000") || strings.Contains(out, "\x1b") {
		t.Errorf("the table, not on a terminal:\n%s", out)
	}

	each, _, _ := run0(t, "replay", "--drops", "-o", "json", file)
	if n := len(parseDrops(t, []byte(each))); n != packets {
		t.Errorf("%d drops one by one, want %d", n, packets)
	}
	collapsed, _, _ := run0(t, "replay", "--drops", "-o", "json", "--collapse", file)
	for _, out := range []string{each, collapsed} {
		if total := totalOf(t, out); total != uint64(packets) {
			t.Errorf("%d drops in all, want %d", total, packets)
		}
	}
	sum := uint64(len(parseDrops(t, []byte(collapsed))))
	for line := range strings.Lines(collapsed) {
		var c decoder.DropCount
		if json.Unmarshal([]byte(line), &c) == nil && c.Type == "drops" {
			sum += c.Count
		}
	}
	if sum != uint64(packets) {
		t.Errorf("%d drops shown and counted, want %d", sum, packets)
	}
	checkEqualDrops(t, w, packets)
	checkDropsAtSocket(t, w)
}

// checkDropsAtSocket: a packet that a socket has no room for has no device any more,
// and is found in its namespace all the same, where the kernel tells the socket.
func checkDropsAtSocket(t *testing.T, w *scenarios.World) {
	if kernelLine() == "6.1" {
		return // which tells no socket, and UDP has let the packet's route go
	}
	p2 := namespace(t, w, "p2")
	var socket net.PacketConn
	err := p2.Do(func() (err error) {
		if socket, err = net.ListenPacket("udp", "10.4.0.12:6997"); err == nil {
			err = socket.(*net.UDPConn).SetReadBuffer(1) // the kernel's least
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	tr := start(t, "drops", "-o", "json", "--netns", p2.Name, "udp dst port 6997")
	floodUDP(t, namespace(t, w, "p1"), "10.4.0.12:6997", 200, 1)
	lost := parseDrops(t, tr.stop(t))
	if len(lost) == 0 {
		t.Error("nothing is told of datagrams that a socket has no room for")
	}
	for _, d := range lost {
		if d.Reason != "SOCKET_RCVBUFF" || d.Netns != p2.Name || d.Dev != "eth0" || d.Because == "" {
			t.Errorf("%+v", d)
		}
	}
}

// checkEqualDrops: without a recording the kernel counts equal drops. None is
// missing, also where more kinds come than it has room for.
func checkEqualDrops(t *testing.T, w *scenarios.World, packets int) {
	t.Helper()
	tr := start(t, append(append([]string{"drops", "--metrics", "127.0.0.1:0"}, netnsFlags(w)...), "net 10.99.0.0/16")...)
	p1 := namespace(t, w, "p1")
	floodUDP(t, p1, "10.99.0.1:7000", packets, 1)
	if records := sampleOf(t, awaitMetrics(t, tr, packets), "waymark_records_total"); records > uint64(packets)/10 {
		t.Errorf("%d records of %d equal drops", records, packets)
	}
	const ports = 3000 // EQUALS of bpf/equal.h is 2048
	floodUDP(t, p1, "10.99.0.1:7000", packets, ports)
	awaitMetrics(t, tr, 2*packets)
	if out := string(tr.stop(t)); totalLine(t, out) != uint64(2*packets) {
		t.Errorf("want %d drops in all: %s", 2*packets, out)
	}
}

// sampleOf is the value of a sample without labels in Prometheus text.
func sampleOf(t *testing.T, text, name string) (n uint64) {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n"+name+" ")
	if _, err := fmt.Sscan(rest, &n); !ok || err != nil {
		t.Fatalf("no %s in %s", name, text)
	}
	return n
}

// blackhole has ns throw away what is for the network.
func blackhole(t *testing.T, ns place.Namespace, network string) {
	t.Helper()
	dst, err := netlink.ParseIPNet(network)
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error { return netlink.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE}) }); err != nil {
		t.Fatal(err)
	}
}

// floodUDP sends n datagrams from inside ns, from so many ports, as fast as they leave.
func floodUDP(t *testing.T, ns place.Namespace, to string, n, ports int) {
	t.Helper()
	err := ns.Do(func() error {
		for p := range ports {
			c, err := net.Dial("udp", to)
			if err != nil {
				return err
			}
			for range n*(p+1)/ports - n*p/ports {
				if _, err = c.Write([]byte("nobody takes this")); err != nil {
					break
				}
			}
			c.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var dropSample = regexp.MustCompile(`(?m)^waymark_drops_total\{netns="[^"]+",device="[^"]*",reason="[^"]+",function="[^"+]+"\} ([0-9]+)$`)

// awaitMetrics waits until so many drops were counted for Prometheus.
func awaitMetrics(t *testing.T, r *running, want int) string {
	t.Helper()
	_, address, ok := strings.Cut(r.stderr.String(), "address=")
	address, _, _ = strings.Cut(address, "\n")
	if !ok {
		t.Fatalf("no address for metrics: %s", r.stderr.String())
	}
	for late := time.Now().Add(30 * time.Second); ; {
		response, err := http.Get("http://" + strings.TrimSpace(address) + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, m := range dropSample.FindAllSubmatch(text, -1) {
			var n int
			_, _ = fmt.Sscan(string(m[1]), &n)
			sum += n
		}
		switch {
		case sum == want:
			return string(text)
		case sum > want || time.Now().After(late):
			t.Fatalf("%d drops were counted, want %d:\n%s", sum, want, text)
		}
	}
}

// totalOf is what the last line of drops says of all.
func totalOf(t *testing.T, out string) uint64 {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var table decoder.DropTable
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &table); err != nil || table.Type != "drop_totals" {
		t.Errorf("no totals at the end: %s, %v", lines[len(lines)-1], err)
	}
	return table.Drops
}

// TestReplayDrops: how drops of a recording are told, and what is refused.
func TestReplayDrops(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"NOT_SPECIFIED at nf_queue+0x21f", "advice: start the balancer", "\n1 drop in "}},
		{[]string{"--top"}, []string{"RATE/s", "tcp 200.100.0.1 → 10.0.0.1:5000"}},
		{[]string{"-o", "json"}, []string{`{"type":"drop",`, `{"type":"drop_totals",`}},
		{[]string{"-o", "json", "--collapse", "--all"}, []string{`{"type":"drop",`, `"drops":1,`}},
	} {
		out, stderr, code := run0(t, append([]string{"replay", "--drops", noListener}, tt.args...)...)
		for _, want := range tt.want {
			if code != 0 || stderr != "" || !strings.Contains(out, want) || strings.Contains(out, "\x1b") {
				t.Errorf("replay --drops %v: exit %d, %s, no %q in\n%s", tt.args, code, stderr, want, out)
			}
		}
	}
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"replay", "--top", noListener}, "add --drops"},
		{[]string{"replay", "--drops", "--top", "-o", "json", noListener}, "use --collapse"},
		{[]string{"drops", "--top", "-o", "json"}, "use --collapse"},
		{[]string{"drops", "--metrics", "9101"}, "no address like"},
	} {
		stdout, stderr, code := run0(t, tt.args...)
		if code != exitUsage || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tt.says) {
			t.Errorf("waymark %v: exit %d, %q, %q; want one line with %q", tt.args, code, stdout, stderr, tt.says)
		}
	}
}

// TestReplayDropsOfSeveral: they are told as one, and of those that are selected.
func TestReplayDropsOfSeveral(t *testing.T) {
	both := []string{noListener, vipMissing}
	drops := func(args ...string) string {
		t.Helper()
		out, stderr, code := run0(t, append([]string{"replay", "--drops"}, args...)...)
		if code != exitOK || stderr != "" {
			t.Errorf("replay --drops %v: exit %d, %s", args, code, stderr)
		}
		return out
	}
	firsts := func(file string) string {
		first, _, ok := strings.Cut(drops(file), "1 drop in ")
		if !ok {
			t.Errorf("no total of %s: %s", file, first)
		}
		return first
	}
	earlier, later := firsts(vipMissing), firsts(noListener)
	all := drops(both...)
	if total := strings.TrimPrefix(all, earlier+later); !strings.HasPrefix(total, "2 drops in ") || strings.Count(total, "\n") != 1 {
		t.Errorf("drops of both:\n%s", all)
	}
	if paced := drops(append(both, "--speed", "1000000x")...); paced != all {
		t.Errorf("paced:\n%s\nwant\n%s", paced, all)
	}
	if top := drops(append(both, "--top")...); !strings.Contains(top, "wm-meridio-lb/nsm-1 on vm") || !strings.Contains(top, "red/target-a/nsc on n1") {
		t.Errorf("the table does not say whose they are:\n%s", top)
	}
	for _, tt := range []struct {
		args []string
		want string // prefix
	}{
		{[]string{"--filter", "src port 38058", "--follow-reply=false"}, later + "1 drop in "},
		{[]string{"--filter", "host 192.0.2.1"}, "no drops in "},
		{[]string{"--only", "dropped"}, earlier + later + "2 drops in "},
		{[]string{"--only", "delivered"}, "no drops in "},
		{[]string{"--mark", "0x7fffffff"}, "no drops in "},
	} {
		if out := drops(append(tt.args, both...)...); !strings.HasPrefix(out, tt.want) {
			t.Errorf("%v: %s, want %s", tt.args, out, tt.want)
		}
	}
	file := filepath.Join(t.TempDir(), "expected")
	if err := os.WriteFile(file, []byte(all), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := drops(append(both, "--expect", file)...); out != "" {
		t.Errorf("expected: %s", out)
	}
}

// TestTopOnATerminal: the table stands at the screen's top and fits it; without
// colours if these are not wanted.
func TestTopOnATerminal(t *testing.T) {
	for _, noColor := range []string{"", "1"} {
		master, slave := terminal(t, 60, 10)
		cmd := exec.Command(waymarkBin, "replay", "--drops", "--top", noListener)
		cmd.Env = append(os.Environ(), "NO_COLOR="+noColor, "TERM=xterm")
		cmd.Stdout = slave
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		slave.Close()
		b, _ := io.ReadAll(master) // ends with EIO when nobody has the other side
		out := string(b)
		if !strings.HasPrefix(out, "\x1b[H") || !strings.Contains(out, "\x1b[K") || !strings.HasSuffix(out, "\x1b[J") || !strings.Contains(out, "RATE/s") {
			t.Errorf("%q", out)
		}
		if colored := strings.Contains(out, "\x1b[1m"); colored != (noColor == "") {
			t.Errorf("NO_COLOR=%s: %q", noColor, out)
		}
	}
}

// terminal is both sides of one of that size (pty(7)).
func terminal(t *testing.T, columns, rows uint16) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// TestDropMetrics: counters as Prometheus text, with what is beyond the bounds.
func TestDropMetrics(t *testing.T) {
	text := string(dropMetricsText(decoder.DropSamples{
		Series: []decoder.DropSample{{DropSeries: decoder.DropSeries{Netns: "lb", Device: `e"0`, Reason: "NO_SOCKET", Function: "udp_rcv"}, Count: 7}},
		Others: 3, Normal: []decoder.NormalCount{{Why: "a reset", Count: 2}}, Status: decoder.Status{Records: 12, Lost: 1},
	}))
	for _, want := range []string{
		`waymark_drops_total{netns="lb",device="e\"0",reason="NO_SOCKET",function="udp_rcv"} 7`,
		`waymark_drops_total{netns="(others)",device="(others)",reason="(others)",function="(others)"} 3`,
		`waymark_drops_normal_total{why="a reset"} 2`, "waymark_records_total 12", "waymark_records_lost_total 1", "waymark_untracked_total 0",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}
