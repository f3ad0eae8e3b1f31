// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A balancer in a process of its own, which can be stopped and killed.

// patience bounds what a process takes to do anything; an emulated machine is
// slow.
const patience = 30 * time.Second

// waymark is the binary under test: $WAYMARK_BIN, or built once. Where there
// is no Go, as in a VM, there has to be the former.
func waymark(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("WAYMARK_BIN"); path != "" {
		return path
	}
	path, err := built()
	if err != nil {
		unavailable(t, "no waymark to test with: set WAYMARK_BIN, or mend the build: %v", err)
	}
	return path
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "waymark-nfqlb-test-")
	if err != nil {
		return "", err
	}
	builtIn = dir
	path := filepath.Join(dir, "waymark")
	build := exec.Command("go", "build", "-o", path, "waymark/cmd/waymark")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

var builtIn string // the directory to remove at the end

func TestMain(m *testing.M) {
	code := m.Run()
	if builtIn != "" {
		os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

// served is a `lb serve` in w's balancer namespace.
type served struct {
	t     testing.TB
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of Wait, once ended

	mu    sync.Mutex
	lines []string // of stderr
}

// serveCommand runs `waymark lb serve` for queue 0 and returns at once.
func (w *world) serveCommand(env []string, args ...string) *served {
	w.t.Helper()
	p := &served{t: w.t, ended: make(chan struct{})}
	counters := fmt.Sprintf("wm-test-%d-ft", os.Getpid()) // of fragments; the default is the machine's
	w.t.Cleanup(func() { DeleteShared(ShmDir, counters) })
	p.cmd = exec.Command(waymark(w.t), append([]string{"lb", "serve", "--queue", "0", "--ft-shm", counters}, args...)...)
	p.cmd.Env = append(os.Environ(), env...)
	r, out, err := os.Pipe()
	w.must(err)
	p.cmd.Stderr = out
	w.inNS(func() { err = p.cmd.Start() }) // the process is in its thread's namespace
	out.Close()
	w.must(err)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for in := bufio.NewScanner(r); in.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, in.Text())
			p.mu.Unlock()
		}
		r.Close()
	}()
	go func() {
		<-read
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	w.t.Cleanup(func() {
		select {
		case <-p.ended:
		default:
			p.cmd.Process.Kill()
			<-p.ended
		}
		if w.t.Failed() {
			w.t.Logf("balancer %d said\n%s", p.cmd.Process.Pid, strings.Join(p.said(""), "\n"))
		}
	})
	return p
}

// serveProcess is serveCommand that waits until the queues are served.
func (w *world) serveProcess(env []string, args ...string) *served {
	w.t.Helper()
	p := w.serveCommand(env, args...)
	p.await(`"ready"`)
	return p
}

// said is what the process logged that has text in it.
func (p *served) said(text string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(p.lines), func(l string) bool { return !strings.Contains(l, text) })
}

func (p *served) await(text string) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for len(p.said(text)) == 0 {
		select {
		case <-p.ended:
			if len(p.said(text)) == 0 {
				p.t.Fatalf("the balancer ended (%v) before it said %s:\n%s", p.err, text, strings.Join(p.said(""), "\n"))
			}
		case <-time.After(time.Millisecond):
			if time.Now().After(deadline) {
				p.t.Fatalf("the balancer did not say %s:\n%s", text, strings.Join(p.said(""), "\n"))
			}
		}
	}
}

func (p *served) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// freeze stops the process until SIGCONT, all its threads.
func (p *served) freeze() {
	p.t.Helper()
	p.signal(unix.SIGSTOP)
	await(p.t, "the process to stop", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			_, state, ok := strings.Cut(string(stat), ") ")
			if err == nil && (!ok || state[0] != 'T') {
				return false
			}
		}
		return len(threads) > 0
	})
}

// exit waits for the process's end, which shall be a good one, and says how
// long it took.
func (p *served) exit() time.Duration {
	p.t.Helper()
	start := time.Now()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("the balancer does not end")
	}
	if p.err != nil {
		p.t.Errorf("the balancer ended with %v", p.err)
	}
	return time.Since(start)
}

// kill ends the process as a crash does.
func (p *served) kill() {
	p.t.Helper()
	p.signal(unix.SIGKILL)
	<-p.ended
}

// counts is what the process counted, from its last line.
func (p *served) counts() (e EngineStats, b Stats) {
	p.t.Helper()
	lines := p.said(`"stopped"`)
	if len(lines) != 1 {
		p.t.Fatalf("the balancer did not say what it did:\n%s", strings.Join(p.said(""), "\n"))
	}
	var line struct {
		Engine   EngineStats `json:"engine"`
		Balancer Stats       `json:"balancer"`
	}
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil {
		p.t.Fatal(err)
	}
	return line.Engine, line.Balancer
}

// shared is a table of the machine's with Meridio's targets.
func (w *world) shared() (name string) {
	w.t.Helper()
	name = fmt.Sprintf("wm-test-%d-%s", os.Getpid(), strings.ReplaceAll(w.t.Name(), "/", "-"))
	w.must(InitShared(ShmDir, name, 0, 9973, 100))
	w.t.Cleanup(func() { DeleteShared(ShmDir, name) })
	for _, i := range []int{47, 57, 66, 89} {
		w.must(ActivateAt(ShmDir, name, i, 5001+i))
	}
	return name
}

// setFlow gives the balancer in w a flow that takes everything.
func (w *world) setFlow(table string) {
	w.t.Helper()
	w.inNS(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		w.must(SetFlow(ctx, FlowSpec{Name: "all", Target: table}))
	})
}

// A balancer that starts again, after an orderly end or a crash, sends the same
// packets to the same targets, without being told a flow.
func TestRestartKeepsDecisions(t *testing.T) {
	for _, c := range []struct {
		name, state string
		end         func(p *served)
	}{
		{"SIGTERM", "auto", func(p *served) { p.signal(unix.SIGTERM); p.exit() }},
		{"SIGKILL", "", (*served).kill},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			if c.state == "" {
				c.state = filepath.Join(t.TempDir(), "flows")
			} else {
				file := ""
				w.inNS(func() { file, _ = FlowFile() })
				t.Cleanup(func() { os.Remove(file) })
			}
			packets := steadyTraffic(200)
			table := w.shared()
			first := w.serveProcess(nil, "--state", c.state)
			w.setFlow(table)
			w.send(packets...)
			await(t, "the packets", func() bool { return sumOf(w.counted()) == 200 })
			want := w.counted()
			c.end(first)
			w.serveProcess(nil, "--state", c.state)
			w.send(packets...)
			await(t, "the packets after the start", func() bool { return sumOf(w.counted()) == 400 })
			for mark, n := range w.counted() {
				if n != 2*want[mark] {
					t.Errorf("mark %d: %d packets before the start, %d after it", mark, want[mark], n-want[mark])
				}
			}
		})
	}
}

// What a crash costs: the packets that wait are dropped, and those that come
// are, too, unless the queue rule has the bypass flag. --fail-open is about
// queues that are full, and changes nothing.
func TestCrash(t *testing.T) {
	for _, c := range []struct {
		name     string
		flags    byte
		args     []string
		unserved int // of 100 packets pass while nobody serves
	}{
		{"rule without bypass", 0, nil, 0},
		{"fail-open", 0, []string{"--fail-open"}, 0},
		{"rule with bypass", bypass, nil, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			if c.flags != 0 {
				w.removeRules()
				w.rules(1, c.flags)
			}
			args := append([]string{"--state", filepath.Join(t.TempDir(), "flows")}, c.args...)
			p := w.serveProcess(nil, args...)
			w.setFlow(w.shared())
			s := w.sender(steadyTraffic(50))
			s.send(100)
			await(t, "packets", func() bool { return sumOf(w.counted()) == 100 })
			p.freeze()
			s.send(100)
			await(t, "packets that wait", func() bool { return w.queueLine()[2] == 100 })
			p.kill()
			await(t, "the end of the queue", func() bool { return w.queueLine() == [9]uint64{} })
			s.send(100)
			// Packets are delivered in order: when those that the next process
			// gets are there, the others are, too, or never will be.
			p = w.serveProcess(nil, args...)
			s.send(100)
			want := 200 + c.unserved
			await(t, "packets after the crash", func() bool { return sumOf(w.counted()) >= uint64(want) })
			if got := w.counted(); sumOf(got) != uint64(want) || got[0] != c.unserved {
				t.Errorf("100 packets before, 100 that waited, 100 without a process, 100 after the start: %v passed, want %d and %d without a mark", got, want, c.unserved)
			}
			p.signal(unix.SIGTERM)
			p.exit()
		})
	}
}

// SIGTERM while packets come: each packet that the process received passes.
func TestTermDrains(t *testing.T) {
	w := newWorld(t, 1)
	table := w.shared()
	s := w.sender(steadyTraffic(256))
	s.constantly(5 * steadyRate)
	state := filepath.Join(t.TempDir(), "flows")
	passed := uint64(0)
	for n := range 3 {
		p := w.serveProcess(nil, "--state", state, "--qlength", "8192")
		if n == 0 {
			// Without a flow everything is dropped, and counted.
			w.setFlow(table)
		}
		before := sumOf(w.counted())
		await(t, "packets", func() bool { return sumOf(w.counted()) > before+200 })
		p.signal(unix.SIGTERM)
		p.exit()
		e, b := p.counts()
		if e.VerdictErrors+e.Flushed+e.Malformed != 0 {
			t.Errorf("packets were lost: %+v", e)
		}
		passed += b.Reasons[""]
	}
	if got := sumOf(w.counted()); got != passed {
		t.Errorf("the processes placed %d packets, %d passed", passed, got)
	}
}

// One process after the other takes over while packets come. Every packet
// passes, each with the mark that it had before.
func TestProcessesTakeOver(t *testing.T) {
	w := newWorld(t, 1)
	table := w.shared()
	args := []string{"--state", filepath.Join(t.TempDir(), "flows"), "--qlength", "8192", "--metrics", "127.0.0.1:9100", "--takeover"}
	old := w.serveProcess(nil, args...) // there is none: it starts
	w.setFlow(table)
	packets := steadyTraffic(200)
	w.send(packets...)
	await(t, "the packets", func() bool { return sumOf(w.counted()) == 200 })
	share := w.counted()

	s := w.sender(packets)
	stop := s.constantly(5 * steadyRate)
	for range 4 {
		before := sumOf(w.counted())
		await(t, "packets", func() bool { return sumOf(w.counted()) > before+100 })
		next := w.serveProcess(nil, args...)
		old.exit()
		old = next
	}
	stop()
	rest := int((200 - s.sent.Load()%200) % 200) // so that each packet was sent as often
	s.send(rest)
	sent := 200 + s.sent.Load()
	await(t, "the last packets", func() bool { return sumOf(w.counted()) >= sent })
	for mark, n := range w.counted() {
		if want := share[mark] * int(sent/200); n != want {
			t.Errorf("mark %d: %d packets, want %d", mark, n, want)
		}
	}
	old.signal(unix.SIGTERM)
	old.exit()
	if _, b := old.counts(); b.Reasons[""] != sent {
		t.Errorf("the last of 5 processes counts %v packets, %d were sent", b.Reasons, sent)
	}
}

// The tun device can be open in one process only, and goes with the last one.
// The new process gets it, and what the old one kept for it: here a later
// fragment, whose first one comes to the new process.
func TestTunIsHandedOver(t *testing.T) {
	w := newWorld(t, 1)
	w.inNS(func() {
		tun, err := OpenTun("wm-probe")
		if err != nil {
			unavailable(t, "%v", err)
		}
		w.must(tun.Close())
	})
	args := []string{"--state", filepath.Join(t.TempDir(), "flows"), "--tun", "nfqlb0", "--ft-ttl", "60000", "--takeover"}
	old := w.serveProcess(nil, args...)
	w.setFlow(w.shared())
	client := netip.MustParseAddr("200.100.0.1")
	parts := fragmented(client, vip4, protoUDP, 100, 1440, withUDPChecksum(client, vip4, udpPayload(2000, 5001, 2000)))
	w.send(parts[1])
	// What follows it in the queue is there when it is decided.
	packets := steadyTraffic(10)
	w.send(packets...)
	await(t, "packets behind the fragment", func() bool { return sumOf(w.counted()) == 10 })
	next := w.serveProcess(nil, args...)
	old.exit()
	w.send(parts[0])
	await(t, "both fragments", func() bool { return sumOf(w.counted()) == 12 })
	next.signal(unix.SIGTERM)
	next.exit()
}

// A process that cannot take over leaves the old one alone.
func TestProcessRefusesTakeover(t *testing.T) {
	w := newWorld(t, 1)
	state := filepath.Join(t.TempDir(), "flows")
	old := w.serveProcess(nil, "--state", state)
	w.setFlow(w.shared())
	for args, want := range map[string]string{
		"--takeover --queue 0:1":           "use the same --queue",
		"--takeover --metrics 192.0.2.1:1": "--metrics",
		"--fail-open":                      "serve --takeover",
	} {
		p := w.serveCommand(nil, append([]string{"--state", state}, strings.Fields(args)...)...)
		<-p.ended
		var exit *exec.ExitError
		if !errors.As(p.err, &exit) || len(p.said(want)) != 1 {
			t.Errorf("%v ended with %v, want %s:\n%s", args, p.err, want, strings.Join(p.said(""), "\n"))
		}
	}
	w.send(steadyTraffic(100)...)
	await(t, "packets", func() bool { return sumOf(w.counted()) == 100 })
	old.signal(unix.SIGTERM)
	old.exit()
}

// Garbage collections and SIGTERM get through to a process whose threads wait
// in raw system calls or are busy all the time, whether the runtime may
// interrupt them or not.
func TestProcessLetsRuntimeIn(t *testing.T) {
	if testing.Short() {
		t.Skip("short: no kernel has part in this, it runs on the host")
	}
	const collections = 20
	for _, debug := range []string{"gctrace=1", "gctrace=1,asyncpreemptoff=1"} {
		for _, busy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,busy=%v", debug, busy), func(t *testing.T) {
				w := newWorld(t, 1)
				// With GOGC=1 some 40 kB bring about a collection: a few lists of flows.
				p := w.serveProcess([]string{"GODEBUG=" + debug, "GOGC=1"}, "--state", filepath.Join(t.TempDir(), "flows"))
				w.setFlow(w.shared())
				if busy {
					defer w.sender(steadyTraffic(256)).saturating()()
					await(t, "packets", func() bool { return sumOf(w.counted()) > 1000 })
				}
				slowest := time.Duration(0)
				before := len(p.said("gc "))
				for deadline := time.Now().Add(patience); len(p.said("gc ")) < before+collections; {
					start := time.Now()
					w.inNS(func() {
						ctx, cancel := context.WithTimeout(context.Background(), patience)
						defer cancel()
						_, err := ListFlows(ctx)
						w.must(err)
					})
					slowest = max(slowest, time.Since(start))
					if time.Now().After(deadline) {
						t.Fatalf("%d garbage collections in %v", len(p.said("gc "))-before, patience)
					}
				}
				p.signal(unix.SIGTERM)
				took := p.exit()
				t.Logf("%d collections, slowest answer meanwhile %v; ended %v after SIGTERM; GOMAXPROCS here %d",
					len(p.said("gc "))-before, slowest, took, runtime.GOMAXPROCS(0))
				if slowest > 5*time.Second || took > 5*time.Second {
					t.Errorf("an answer took %v, the end %v", slowest, took)
				}
			})
		}
	}
}
