// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"waymark/nfqlb"
)

// within runs f on a thread in a new network namespace, which ends with f.
func within(t *testing.T, f func()) {
	t.Helper()
	needRoot(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends here
		ns, err := netns.New()
		if err != nil {
			t.Errorf("network namespace: %v", err)
			return
		}
		defer ns.Close()
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// process is a waymark whose output is awaited line by line.
type process struct {
	*exec.Cmd
	t     *testing.T
	lines chan string
}

func startWaymark(t *testing.T, ctx context.Context, stderr bool, args ...string) *process {
	p := &process{Cmd: exec.CommandContext(ctx, waymarkBin, args...), t: t, lines: make(chan string, 1000)}
	r, w, err := os.Pipe()
	if err != nil {
		t.Error(err)
		return nil
	}
	if stderr {
		p.Stderr = w
	} else {
		p.Stdout = w
	}
	if err := p.Start(); err != nil {
		t.Error(err)
		return nil
	}
	w.Close()
	go func() {
		defer close(p.lines)
		for in := bufio.NewScanner(r); in.Scan(); {
			p.lines <- in.Text()
		}
	}()
	return p
}

// await is true once a line has text in it.
func (p *process) await(text string) bool {
	for line := range p.lines {
		if strings.Contains(line, text) {
			return true
		}
	}
	p.t.Errorf("%v ended before it said %q", p.Args, text)
	return false
}

// end sends a signal and checks that the process ends well.
func (p *process) end(sig os.Signal) {
	if err := p.Process.Signal(sig); err != nil {
		p.t.Error(err)
	}
	for range p.lines {
	}
	if err := p.Wait(); err != nil {
		p.t.Errorf("%v after %v: %v", p.Args, sig, err)
	}
}

// The balancer seen from outside: trace, log level, metrics, in a network
// namespace of the test's own.
func TestLBSeenFromOutside(t *testing.T) {
	shared := filepath.Join(nfqlb.ShmDir, nfqlb.TraceName)
	if _, err := os.Stat(shared); os.IsNotExist(err) {
		t.Cleanup(func() { os.Remove(shared) })
	}
	shm := fmt.Sprintf("wm-test-seen-%d", os.Getpid())
	t.Cleanup(func() {
		lbOutput(t, "delete --shm="+shm)
		lbOutput(t, "delete --shm="+shm+"-ft")
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	lb := func(line, want string, code int) {
		out, err := exec.CommandContext(ctx, waymarkBin, strings.Fields("lb "+line)...).CombinedOutput()
		got := 0
		if exit, ok := err.(*exec.ExitError); ok {
			got = exit.ExitCode()
		} else if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if got != code || !regexp.MustCompile("^(?s:"+want+")$").Match(out) {
			t.Errorf("lb %s: exit %d, %q; want exit %d, %s", line, got, out, code, want)
		}
	}
	within(t, func() {
		const refused = "waymark: no balancer listens[^\n]*\n"
		lb("trace-flow-list", refused, exitUnsupported)
		lb("trace --selection flows", "Mask=0x00000040\n"+refused, exitUnsupported)

		server := startWaymark(t, ctx, true, "lb", "serve", "--queue", "7", "--state", "none", "--metrics", "127.0.0.1:9100", "--ft-shm", shm+"-ft")
		if server == nil || !server.await(`"ready"`) {
			return
		}
		lb("trace-flow-set --name=syn --protocols=tcp --match=tcp[12:2]&0x01ff=0x0002", "OK\n", 0)
		lb("trace-flow-list-names", `\[\n  "syn"\n\]\n`, 0)
		lb("trace-flow-list --name syn", `\{\n  "name": "syn",.*"matches_count": 0\n\}`, 0)
		lb("stats --ft_shm "+shm+"-ft", `\{\n  "hsize": .*"reAssembled": 0\n\}\n`, 0)

		trace := startWaymark(t, ctx, false, "lb", "trace", "--selection=flow-conf,target,log")
		if trace == nil || !trace.await("Trace active, mask=0x00000029") {
			return
		}
		second := startWaymark(t, ctx, false, "lb", "trace", "--mask", "8")
		if second == nil || !second.await("Trace active, mask=0x00000008") {
			return
		}
		lb("init --shm="+shm+" --M=100 --N=2", ".*", 0)
		lb("activate --shm="+shm+" --index 1 5001", "", 0)
		lb("flow-set --name all --target "+shm, "OK\n", 0)
		trace.await("Creating LB; " + shm)
		trace.await("writeReply [OK]")
		second.await("writeReply [OK]")
		lb("activate --shm="+shm+" --index 0 5000", "", 0)
		trace.await(`"message":"targets changed"`)
		second.end(unix.SIGTERM)
		trace.end(unix.SIGINT)
		lb("trace-flow-delete --name syn", "OK\n", 0)
		lb("loglevel 4", "loglevel=4\n", 0)
		lb("loglevel", "loglevel=4\n", 0)
		lb("loglevel 5", "loglevel=5\n", 0)

		conn, err := net.Dial("tcp", "127.0.0.1:9100")
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /metrics HTTP/1.0\r\n\r\n")
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Error(err)
			return
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK || !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
			t.Errorf("scrape: %v, %v", answer.Status, err)
		}
		for _, want := range []string{
			`waymark_lb_flow_packets_total{flow="all"} 0`,
			`waymark_lb_targets_active{table="` + shm + `"} 2`,
			`waymark_lb_packets_total{reason="placed"} 0`,
			`waymark_lb_queue_packets_total 0`,
			`waymark_lb_queue_dropped_total{queue="7",full="queue"} 0`,
		} {
			if !strings.Contains(string(body), want+"\n") {
				t.Errorf("no %s in\n%s", want, body)
			}
		}
		server.end(unix.SIGTERM)
	})
}

func TestLBSeenRefuses(t *testing.T) {
	t.Setenv("NFQLB_FLOW_ADDRESS", "unix:wm-test-nobody")
	for _, c := range []struct {
		line, want string
		code       int
	}{
		{"trace", "needs one of", exitUsage},
		{"trace --mask 1 --selection log", "needs one of", exitUsage},
		{"trace --mask x", "no number of 32 bits", exitUsage},
		{"trace --mask 0x1ffffffff", "no number of 32 bits", exitUsage},
		{"trace --selection flow", "cannot be traced", exitUsage},
		{"trace --selection log --trace_address pigeon", "neither unix:NAME", exitUsage},
		{"loglevel high", "no log level", exitUsage},
		{"loglevel 1 2", "one level", exitUsage},
		{"trace-flow-set", "needs --name", exitUsage},
		{"trace-flow-set --name=a --dports=5", "ports need --protocols", exitUsage},
		{"trace-flow-set --name=a", "no balancer listens", exitUnsupported},
		{"trace-flow-delete --name=a", "no balancer listens", exitUnsupported},
		{"trace-flow-list-names", "no balancer listens", exitUnsupported},
		{"stats --ft_shm=wm-test-nosuch", "no balancer publishes", exitUnsupported},
		{"stats --ft_shm=a/b", "no name of a shared table", exitUsage},
		{"serve --metrics=9100", "no address like", exitUsage},
		{"serve --trace_address=pigeon", "neither unix:NAME", exitUsage},
	} {
		_, err := lbOutput(t, c.line)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", c.line, err, c.want)
			continue
		}
		code := exitUsage
		if e, ok := err.(exitError); ok {
			code = e.code
		}
		if code != c.code {
			t.Errorf("%s: exit code %d, want %d", c.line, code, c.code)
		}
	}
}
