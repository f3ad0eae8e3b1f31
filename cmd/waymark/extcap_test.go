// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"waymark/decoder"
	"waymark/scenarios"
)

// TestExtcapTellsWhatItIs: what Wireshark asks before a capture.
func TestExtcapTellsWhatItIs(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string // regular expression
	}{
		{[]string{"--extcap-interfaces"}, `^extcap \{version=[^}]+\}\{display=waymark\}\ninterface \{value=waymark\}\{display=[^}]+\}\n$`},
		{[]string{"--extcap-interfaces", "--extcap-version=4.0"}, `interface \{value=waymark\}`},
		{[]string{"--extcap-dlts", "--extcap-interface", "waymark"}, `^dlt \{number=1\}\{name=EN10MB\}\{display=Ethernet\}\n$`},
		{[]string{"--extcap-interface", "waymark", "--extcap-config"}, `(?m)^arg \{number=0\}\{call=--netns\}`},
		{[]string{"--extcap-config", "--extcap-interface", "waymark", "--extcap-reload-option", "--hooks"}, `^(value \{arg=2\}.*\n)+$`},
		{[]string{"--extcap-interface", "waymark", "--extcap-capture-filter", "tcp any 10.0.0.1:5000"}, `^$`},
		{[]string{"--extcap-capture-filter", "tcp port", "--extcap-interface", "waymark"}, `^[^\n]*at the end of[^\n]*\n$`},
		{[]string{"--extcap-interface", "waymark", "--extcap-cleanup-postkill"}, `^$`},
	} {
		stdout, stderr, code := run0(t, tt.args...)
		if code != exitOK || stderr != "" || !regexp.MustCompile(tt.want).MatchString(stdout) {
			t.Errorf("waymark %s: exit %d, stderr %q, stdout\n%s", strings.Join(tt.args, " "), code, stderr, stdout)
		}
	}
}

// TestExtcapConfig: every option of the dialog is a flag that takes its default,
// and every line is of the grammar of extcap(4).
func TestExtcapConfig(t *testing.T) {
	out, _, _ := run0(t, "--extcap-interface", "waymark", "--extcap-config")
	line := regexp.MustCompile(`^(arg \{number=\d+\}\{call=--[a-z-]+\}|value \{arg=\d+\}\{value=[^{}]+\})(\{[a-z]+=[^{}]+\})+$`)
	for l := range strings.Lines(out) {
		if !line.MatchString(strings.TrimSuffix(l, "\n")) {
			t.Errorf("%q is not of the grammar", l)
		}
	}
	help, _, _ := run0(t, "extcap", "--help")
	for _, m := range regexp.MustCompile(`\{call=(--[a-z-]+)\}`).FindAllStringSubmatch(out, -1) {
		if !strings.Contains(help, m[1]+" ") {
			t.Errorf("there is no flag %s", m[1])
		}
	}
	if strings.Count(out, "{type=") != len(extcapOptions()) {
		t.Errorf("not every option has a type:\n%s", out)
	}
	o := extcapOption{values: func() []extcapValue {
		return []extcapValue{{value: "a,b"}, {value: "a}b"}, {value: "c", display: "{odd}"}}
	}}
	var b bytes.Buffer
	o.print(&b, 3)
	if b.String() != "value {arg=3}{value=c}{display=_odd_}{default=false}\n" {
		t.Errorf("odd values are printed as %q", b.String())
	}
}

// newReader makes a fifo and opens it as Wireshark does.
func newReader(t *testing.T) (path string, reader func() *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, func() *os.File {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
}

// extcapCapture starts a capture into a fifo.
func extcapCapture(t *testing.T, w *scenarios.World, fifo string, more ...string) (cmd *exec.Cmd, stderr *bytes.Buffer) {
	t.Helper()
	var netns []string
	for _, n := range w.Nodes() {
		netns = append(netns, w.Namespace(n))
	}
	args := append([]string{"--capture", "--extcap-interface", "waymark", "--fifo", fifo, "--netns", strings.Join(netns, ","), "--follow-reply", "true"}, more...)
	cmd, stderr = exec.Command(waymarkBin, args...), &bytes.Buffer{}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, stderr
}

// ended waits for an extcap that should have nothing to complain about.
func ended(t *testing.T, why string, cmd *exec.Cmd, stderr *bytes.Buffer) {
	t.Helper()
	late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("%s: %v, stderr %q", why, err, stderr.String())
	}
}

// TestExtcapEnds: when the reader goes, although nothing happens in the lab, and
// when Wireshark says so, with a whole recording then.
func TestExtcapEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: Wireshark is for the host")
	}
	w := labUpFor(t)
	t.Run("reader", func(t *testing.T) {
		fifo, reader := newReader(t)
		cmd, stderr := extcapCapture(t, w, fifo)
		in := reader()
		if _, err := io.ReadFull(in, make([]byte, 100)); err != nil { // it traces
			t.Fatal(err, stderr.String())
		}
		in.Close()
		ended(t, "its reader went", cmd, stderr)
	})
	t.Run("SIGTERM", func(t *testing.T) {
		fifo, reader := newReader(t)
		cmd, stderr := extcapCapture(t, w, fifo, "--extcap-capture-filter", "tcp any 10.0.0.1:5000")
		in := reader()
		first := make([]byte, 100)
		if _, err := io.ReadFull(in, first); err != nil {
			t.Fatal(err, stderr.String())
		}
		if sum, err := w.Send(ctxBackground, scenarios.Traffic{Connections: 1}, nil); err != nil || sum.Answered != 1 {
			t.Fatalf("%+v: %v", sum, err)
		}
		rest := make(chan []byte)
		go func() {
			b, _ := io.ReadAll(in)
			rest <- b
		}()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		file := append(first, <-rest...)
		ended(t, "SIGTERM", cmd, stderr)
		journeys := 0
		s := newStitcher(decoder.Options{Emit: func(*decoder.Journey) { journeys++ }})
		result, err := decoder.Replay(bytes.NewReader(file), s)
		s.Flush()
		if err != nil || !result.Ended || result.Truncated || journeys < 4 { // SYN, SYN-ACK, ACK, data at least
			t.Errorf("the recording has %d journeys: %+v, %v", journeys, result, err)
		}
	})
}

// TestExtcapRefuses: in one line, which Wireshark shows.
func TestExtcapRefuses(t *testing.T) {
	fifo, _ := newReader(t)
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"--extcap-interface", "eth0", "--extcap-dlts"}, "no interface"},
		{[]string{"--extcap-interface", "waymark"}, "--capture"},
		{[]string{"--extcap-interface", "waymark", "--extcap-reload-option", "--nope"}, "no option"},
		{[]string{"--capture", "--extcap-interface", "waymark"}, "--fifo"},
		{[]string{"--capture", "--extcap-interface", "waymark", "--fifo", fifo, "--snaplen", "3"}, "14 to 16384"},
		{[]string{"--capture", "--extcap-interface", "waymark", "--fifo", fifo, "--payload", "some"}, "off, headers or full"},
		{[]string{"--capture", "--extcap-interface", "waymark", "--fifo", filepath.Join(fifo, "x")}, "open the fifo"},
		{[]string{"extcap"}, "--lua"},
	} {
		stdout, stderr, code := run0(t, tt.args...)
		if code != exitUsage || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tt.says) {
			t.Errorf("waymark %s: exit %d, stdout %q, stderr %q; want a line with %q", strings.Join(tt.args, " "), code, stdout, stderr, tt.says)
		}
	}
}

// TestTsharkCaptures: tshark lists the interface and captures by it; its file
// replays.
func TestTsharkCaptures(t *testing.T) {
	needTshark(t)
	w := labUpFor(t)
	list := tsharkWithExtcap(t, "-D")
	if out, err := list.CombinedOutput(); err != nil || !strings.Contains(string(out), "waymark (packets through network namespaces)") {
		t.Fatalf("tshark -D: %v\n%s", err, out)
	}
	script := filepath.Join(t.TempDir(), "waymark.lua")
	if err := os.WriteFile(script, []byte(decoder.WiresharkLua), 0o600); err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(t.TempDir(), "saved.pcapng")
	cmd := tsharkWithExtcap(t, "-i", "waymark", "-f", "tcp any 10.0.0.1:5000", "-X", "lua_script:"+script, "-a", "duration:60", "-o", "extcap.waymark.snaplen:64", "-o", "extcap.waymark.journeys:true", "-o", "extcap.waymark.payload:full",
		"-c", "200", "-w", saved, "-P", "-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_id", "-e", "waymark.mark", "-e", "waymark.rule", "-e", "waymark.outcome", "-e", "frame.cap_len")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// It does not say when it captures, and sees drops before devices are attached:
	// there is traffic until it has enough.
	ctx, stop := context.WithCancel(t.Context())
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = w.Send(ctx, scenarios.Traffic{Connections: 2000, Rate: 20}, nil)
	}()
	err := cmd.Wait()
	stop()
	<-sent
	if err != nil || !strings.Contains(stderr.String(), "200 packets captured") {
		t.Fatalf("tshark: %v\n%s%s", err, out.String(), stderr.String())
	}
	for _, want := range []string{"wm-meridio-lb/nsm-1\t", "wm-meridio-gw/ext0\t", "\t0x000013", "\t100\t", "\tdelivered\t64\n"} { // marks are 5000 and up
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if stdout, said, code := run0(t, "replay", saved); code != exitOK || !strings.Contains(stdout, "balancer: flow ") {
		t.Errorf("what tshark saved replays with exit %d: %s\n%s", code, said, stdout)
	}
}

// needTshark: the machines in scenarios/vm have none, the host has.
func needTshark(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: tshark is for the host")
	}
	if _, err := exec.LookPath("tshark"); err != nil {
		if os.Getenv("WAYMARK_CI") != "" {
			t.Fatal("tshark is not installed, and CI must not skip it")
		}
		t.Skip("SKIPPED: no tshark here (apt install tshark)")
	}
}

// tsharkWithExtcap is a tshark that sees no extcap but waymark. As root it takes
// its directory from nowhere else than its installation, so the test covers that in
// a mount namespace of its own.
func tsharkWithExtcap(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	folders, err := exec.Command("tshark", "-G", "folders").Output()
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^Extcap path:\s*(.+)$`).FindSubmatch(folders)
	if m == nil {
		t.Fatalf("tshark does not say where extcaps are:\n%s", folders)
	}
	dir := t.TempDir()
	if err := os.Symlink(waymarkBin, filepath.Join(dir, "waymark")); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "WAYMARK_EXTCAP="+dir+":"+string(m[1]))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return cmd
}

// becomeTshark covers tshark's directory of extcaps with another one, given as
// NEW:OLD, and becomes tshark.
func becomeTshark(dirs string) error {
	from, to, _ := strings.Cut(dirs, ":")
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	path, err := exec.LookPath("tshark")
	if err != nil {
		return err
	}
	return unix.Exec(path, append([]string{path}, os.Args[1:]...), slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "WAYMARK_EXTCAP=") }))
}
