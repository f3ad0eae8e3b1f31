// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"waymark/scenarios"
	"waymark/tracer"
)

// These tests run the real binary on a real kernel, in the Meridio lab. The
// same tables run on the host and inside Debian's kernels.

// waymarkBin is the waymark under test: $WAYMARK_BIN, or built once.
var waymarkBin string

func TestMain(m *testing.M) {
	waymarkBin = os.Getenv("WAYMARK_BIN")
	if groups := os.Getenv("WAYMARK_BENCH_TRACER"); groups != "" {
		if err := benchTracer(groups); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if bin := os.Getenv("WAYMARK_HIDE_BTF"); bin != "" {
		os.Unsetenv("WAYMARK_HIDE_BTF")
		fmt.Fprintln(os.Stderr, hideBTF(bin))
		os.Exit(1)
	}
	if dirs := os.Getenv("WAYMARK_EXTCAP"); dirs != "" {
		fmt.Fprintln(os.Stderr, becomeTshark(dirs))
		os.Exit(1)
	}
	code := func() int {
		if waymarkBin == "" {
			dir, err := os.MkdirTemp("", "waymark-test-")
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			defer os.RemoveAll(dir)
			waymarkBin = filepath.Join(dir, "waymark")
			build := exec.Command("go", "build", "-o", waymarkBin, ".")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build waymark: %v\n%s", err, out)
				return 1
			}
		}
		return m.Run()
	}()
	os.Exit(code)
}

// needRoot skips a test that needs namespaces and BPF; CI must not skip it.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("WAYMARK_CI") != "" {
		t.Fatal("this test needs root, and CI must not skip it")
	}
	t.Skip("SKIPPED: needs root to make namespaces and load BPF programs")
}

// labUpFor brings the Meridio lab up for one test.
func labUpFor(t testing.TB) *scenarios.World {
	t.Helper()
	return labUpWith(t, scenarios.Options{Lab: "meridio"})
}

func labUpWith(t testing.TB, o scenarios.Options) *scenarios.World {
	t.Helper()
	needRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	o.Executable = waymarkBin
	w, err := scenarios.Up(ctx, o)
	// The machines of scenarios/vm have every part of it, other kernels may not.
	_, notGuest := os.Stat("/lib/modules/waymark.index")
	if errors.Is(err, scenarios.ErrUnsupported) && (o.Lab == "ipvs" || o.External != "") && notGuest != nil {
		t.Skipf("SKIPPED here, it runs on the kernels in the VM: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Down(); err != nil {
			t.Errorf("take the lab down: %v", err)
		}
	})
	for _, note := range w.Notes() {
		t.Logf("lab: %s", note)
	}
	return w
}

// netnsFlags are --netns flags for all of a world's namespaces: tests look at
// nothing else on the machine.
func netnsFlags(w *scenarios.World) []string {
	var flags []string
	for _, n := range w.Nodes() {
		flags = append(flags, "--netns", w.Namespace(n))
	}
	return flags
}

// running is a waymark command that runs.
type running struct {
	cmd    *exec.Cmd
	stdout output
	stderr bytes.Buffer
	said   chan string // lines of stderr, for await
	eof    chan struct{}
}

// start starts a live command and waits until it traces.
func start(t testing.TB, args ...string) *running {
	t.Helper()
	r := &running{cmd: exec.Command(waymarkBin, args...), said: make(chan string, 1000), eof: make(chan struct{})}
	r.cmd.Stdout = &r.stdout
	pipe, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.cmd.Process.Kill() })
	ready := make(chan bool, 1)
	go func() {
		defer close(r.eof)
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			fmt.Fprintln(&r.stderr, lines.Text())
			if strings.Contains(lines.Text(), "tracing on") {
				ready <- true
			}
			select {
			case r.said <- lines.Text():
			default: // nobody awaits one of so many
			}
		}
		close(ready)
		_, _ = io.Copy(io.Discard, pipe)
	}()
	select {
	case ok := <-ready:
		if !ok {
			t.Fatalf("waymark %s: %s", strings.Join(args, " "), r.stderr.String())
		}
	case <-time.After(time.Minute):
		t.Fatalf("waymark %s did not get ready", strings.Join(args, " "))
	}
	return r
}

// await waits until a line of stderr has text in it.
func (r *running) await(t testing.TB, text string) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		select {
		case line := <-r.said:
			if strings.Contains(line, text) {
				return
			}
		case <-late:
			t.Fatalf("%v does not say %q", r.cmd.Args, text)
		}
	}
}

func (r *running) signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// stop interrupts the command, as a person would, and returns what it printed.
func (r *running) stop(t testing.TB) []byte {
	t.Helper()
	_ = r.cmd.Process.Signal(os.Interrupt)
	return r.wait(t)
}

func (r *running) wait(t testing.TB) []byte {
	t.Helper()
	<-r.eof
	if err := r.cmd.Wait(); err != nil {
		t.Fatalf("waymark %s: %v\n%s", strings.Join(r.cmd.Args[1:], " "), err, r.stderr.String())
	}
	return r.stdout.b
}

// output is what a command has printed so far.
type output struct {
	mu sync.Mutex
	b  []byte
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b = append(o.b, b...)
	return len(b), nil
}

// lines are the whole lines of it.
func (o *output) lines() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b[:bytes.LastIndexByte(o.b, '\n')+1]
}

// run runs a command to its end and returns its output and exit code.
func run0(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errb bytes.Buffer
	cmd := exec.Command(waymarkBin, args...)
	cmd.Stdout, cmd.Stderr = &out, &errb
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errb.String(), cmd.ProcessState.ExitCode()
}

// journey is what the tests read of a journey's JSON.
type journey struct {
	Type    string
	ID      string
	Start   time.Time
	Flow    string
	Reply   bool
	Outcome string
	Packet  struct {
		Proto, Src, Dst, TCPFlags string
		SPort, DPort              uint16
		Flags                     string `json:"tcp_flags"`
		Len                       int
	}
	Hops []struct {
		Netns, Dev, Group, Hook, Verdict string
		Mark                             *uint32
		Packet                           *struct {
			Src, Dst string
			VXLAN    *int
		}
		Detail map[string]any
	}
	Marks []struct {
		Hop      int
		From, To uint32
		By, How  string
	}
	Drop *struct {
		Netns, Dev, Reason, At, Because, Advice, Question string
	}
	Because, Advice, Question string // of a silent loss
	Complete                  bool
	Notes                     []string
}

func parseJourneys(t testing.TB, out []byte) []journey {
	t.Helper()
	var all []journey
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var j journey
		err := dec.Decode(&j)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("parse the output: %v\n%s", err, out)
		}
		if j.Type == "journey" {
			all = append(all, j)
		}
	}
}

// dropLine is what the tests read of a drop's JSON.
type dropLine struct {
	Type, Netns, Dev, Reason, At, Question, Because, Advice string

	Stack  []string
	Packet struct {
		SPort, DPort uint16
		ID           uint16 `json:"icmp_id"`
		Src          string
		FragOff      int `json:"frag_off"`
	}
}

func parseDrops(t testing.TB, out []byte) []dropLine {
	t.Helper()
	var all []dropLine
	for line := range bytes.Lines(out) {
		var d dropLine
		if err := json.Unmarshal(line, &d); err != nil {
			t.Fatalf("parse the output: %v\n%s", err, line)
		}
		if d.Type == "drop" {
			all = append(all, d)
		}
	}
	return all
}

// way is the journey in words a table can hold: one per hop.
func (j *journey) way() string {
	var words []string
	for _, h := range j.Hops {
		place := strings.TrimPrefix(h.Netns, "wm-meridio-")
		switch h.Group {
		case "device":
			words = append(words, fmt.Sprintf("%s/%s %s", place, h.Dev, map[string]string{"ingress": "in", "egress": "out"}[h.Hook]))
		case "lb":
			words = append(words, fmt.Sprintf("%s lb %v", place, h.Detail["target"]))
		case "route":
			words = append(words, fmt.Sprintf("%s table %v", place, h.Detail["table"]))
		}
	}
	return strings.Join(append(words, j.Outcome), ", ")
}

// find is the first journey for which ok holds.
func find(all []journey, ok func(*journey) bool) *journey {
	for i := range all {
		if ok(&all[i]) {
			return &all[i]
		}
	}
	return nil
}

func dump(t testing.TB, all []journey) {
	t.Helper()
	for _, j := range all {
		t.Logf("%s %s:%d → %s:%d %s: %s", j.ID, j.Packet.Src, j.Packet.SPort, j.Packet.Dst, j.Packet.DPort, j.Packet.Flags, j.way())
	}
}

var ctxBackground = context.Background()

func kernelLine() string {
	parts := strings.SplitN(tracer.KernelRelease(), ".", 3)
	return strings.Join(parts[:2], ".")
}

// tick waits a moment in a loop on something that cannot be awaited.
func tick(t testing.TB) {
	t.Helper()
	timer := time.NewTimer(10 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
