// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"waymark/scenarios"
	"waymark/tracer"
)

var (
	recordInto = flag.String("record-scenarios", "", "record the scenario library into this `directory`")
	onlyThese  = flag.String("only-scenarios", "", "of it record only what this `file` names, one a line")
)

// elsewhereFile, in the directory of -record-scenarios, names what this kernel
// cannot show: make scenarios records that in a machine that can.
const elsewhereFile = "elsewhere"

// TestRecordScenarios records the scenario library as `make scenarios` asks for it:
// it brings each lab up and records a connection each way through it, and one with
// each fault of the lab's table.
func TestRecordScenarios(t *testing.T) {
	if *recordInto == "" {
		t.Skip("make scenarios runs this")
	}
	t.Setenv("NODE_NAME", "lab") // and not the name of this machine
	wanted, err := wantedScenarios()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(*recordInto, 0o755); err != nil {
		t.Fatal(err)
	}
	r := &recorder{port: 21000}
	for _, l := range scenarios.List() {
		rows := slices.DeleteFunc(scenarioRows(l), func(s scenarioRow) bool { return !wanted(s.Name) })
		if len(rows) > 0 {
			t.Run(l.Name, func(t *testing.T) { r.lab(t, l.Name, rows) })
		}
	}
	if err := os.WriteFile(filepath.Join(*recordInto, elsewhereFile), r.elsewhere, 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantedScenarios() (wanted func(string) bool, err error) {
	if *onlyThese == "" {
		return func(string) bool { return true }, nil
	}
	list, err := os.ReadFile(*onlyThese)
	if err != nil {
		return nil, err
	}
	names := strings.Fields(string(list))
	return func(name string) bool { return slices.Contains(names, name) }, nil
}

// scenarioRow is a scenario to be recorded.
type scenarioRow struct {
	scenarios.Scenario
	fault *scenarios.Fault // nil: healthy
}

// scenarioRows are a lab's: each way through it with IPv4 and with IPv6, and each
// fault.
func scenarioRows(l scenarios.Lab) []scenarioRow {
	var rows []scenarioRow
	add := func(name string, f *scenarios.Fault, traffic ...string) {
		s := scenarios.Scenario{Name: l.Name + "/" + name, Lab: l.Name, Traffic: traffic}
		if f != nil {
			s.Fault, s.Question, s.Broken = f.Name, f.Question, f.Brief
		}
		rows = append(rows, scenarioRow{s, f})
	}
	services := l.Services
	if len(services) == 0 {
		services = []scenarios.Service{{IPv6: true}}
	}
	for _, s := range services {
		name, to := "healthy", []string{}
		if s.Name != "" {
			name, to = name+"-"+s.Name, []string{"--to", s.Name}
		}
		add(name+"-v4", nil, to...)
		if s.IPv6 {
			add(name+"-v6", nil, append(slices.Clone(to), "-6")...)
		}
	}
	for i := range l.Faults {
		f := &l.Faults[i]
		traffic := slices.Clone(f.Traffic)
		if len(f.Expect.Drops) > 0 && !slices.ContainsFunc(f.Expect.Drops, func(s scenarios.Site) bool { return s.IP == 4 }) {
			traffic = append(traffic, "-6")
		}
		add(f.Name, f, traffic...)
	}
	return rows
}

// shownHere tells whether this kernel loses what the fault's table says is lost.
func (s *scenarioRow) shownHere() bool {
	if s.fault == nil || len(s.fault.Expect.Drops) == 0 {
		return true
	}
	return slices.ContainsFunc(s.fault.Expect.Drops, func(s scenarios.Site) bool { return s.Kernel == kernelLine() })
}

// recorder records scenarios, each with ports of its own: connections of the last
// one may still be sending.
type recorder struct {
	port      int
	elsewhere []byte
}

func (r *recorder) leave(t *testing.T, why any, rows ...scenarioRow) {
	for _, s := range rows {
		t.Logf("%s is not recorded here: %v", s.Name, why)
		r.elsewhere = append(r.elsewhere, s.Name+"\n"...)
	}
}

func (r *recorder) lab(t *testing.T, name string, rows []scenarioRow) {
	w, err := scenarios.Up(t.Context(), scenarios.Options{Lab: name, Executable: waymarkBin})
	if errors.Is(err, scenarios.ErrUnsupported) {
		r.leave(t, err, rows...)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Down(); err != nil {
			t.Errorf("take the lab down: %v", err)
		}
	})
	for _, s := range rows {
		if !s.shownHere() {
			r.leave(t, "the fault's table says nothing of kernel "+kernelLine(), s)
			continue
		}
		t.Run(path.Base(s.Name), func(t *testing.T) { r.scenario(t, w, s) })
	}
}

// scenario sets the fault, if there is one, and records.
func (r *recorder) scenario(t *testing.T, w *scenarios.World, s scenarioRow) {
	if s.fault != nil {
		err := w.Fault(t.Context(), s.Fault)
		defer func() {
			if err := w.Clear(ctxBackground, s.Fault); err != nil {
				t.Errorf("clear: %v", err)
			}
		}()
		if errors.Is(err, scenarios.ErrUnsupported) {
			r.leave(t, err, s)
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := r.attempts(t, w, s); err != nil {
		t.Fatal(err)
	}
}

// Attempts to record a scenario.
const (
	mostAttempts = 24 // with one connection, of which a fault may break only some
	// mostUnexplained bounds those that show the fault but do not name its question.
	mostUnexplained = 3
)

// attempts records one connection after the other until one shows the fault, and
// if none does what the fault's row sends in all.
func (r *recorder) attempts(t *testing.T, w *scenarios.World, s scenarioRow) error {
	dir := filepath.Join(*recordInto, filepath.FromSlash(s.Name))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	base := filepath.Join(dir, path.Base(s.Name))
	failed := 0
	for i := range mostAttempts + 1 {
		count := 1
		if i == mostAttempts {
			count = 100
		}
		out, asWanted := r.record(t, w, s, base+".pcapng", count, failed > 0)
		if !asWanted {
			continue
		}
		failed++
		explained := s.fault == nil || bytes.Contains(out, []byte(`"question":"`+s.Question+`"`))
		if explained || failed == mostUnexplained || i == mostAttempts {
			if !explained && *onlyThese == "" {
				r.leave(t, "what is printed does not name question "+s.Question, s)
				return os.RemoveAll(dir)
			}
			if !explained {
				t.Logf("%s: what is printed does not name question %s", s.Name, s.Question)
			}
			return s.save(base, out)
		}
	}
	return fmt.Errorf("%s: nothing that was sent showed the fault", s.Name)
}

const (
	// beforeRetry is less than TCP waits before it sends again (RFC 6298): a
	// recording tells what became of a packet once.
	beforeRetry = 900 * time.Millisecond
	// longSilence is enough for losses that are told by their silence.
	longSilence = 4 * time.Second
)

// record records what is sent from ports that nothing was sent from before: one
// connection, or as many as the fault's row says. asWanted: a connection failed if
// there is a fault, and none if not. With patience it also records how the fault is
// set, and what comes after a long silence: some faults are told by that.
func (r *recorder) record(t *testing.T, w *scenarios.World, s scenarioRow, file string, ports int, patience bool) (out []byte, asWanted bool) {
	first := r.port
	r.port += ports
	timeout := beforeRetry
	if patience {
		timeout = longSilence
		if err := w.Clear(t.Context(), s.Fault); err != nil {
			t.Fatal(err)
		}
	}
	filter, from, hooks := flowFilter(first, ports), []string{"--src", ":" + strconv.Itoa(first)}, []string(nil)
	if s.fault != nil && s.fault.KernelPorts {
		filter, from, hooks = "tcp", nil, []string{"--hooks", "device,connect,drop,free"}
	}
	tr := start(t, slices.Concat([]string{"trace", "-o", "json", "-w", file}, netnsFlags(w), hooks, []string{filter})...)
	if patience {
		if err := w.Fault(t.Context(), s.Fault); err != nil {
			t.Fatal(err)
		}
	}
	traffic := append([]string{"lab", "traffic", w.Name()}, s.Traffic...)
	if ports == 1 {
		traffic = append(traffic, "-c", "1")
		if !slices.Contains(s.Traffic, "--timeout") {
			traffic = append(traffic, "--timeout", timeout.String())
		}
	}
	_, stderr, code := run0(t, append(traffic, from...)...)
	if code != exitOK && code != exitProblem {
		t.Fatalf("%v: exit %d, %s", traffic, code, stderr)
	}
	return tr.stop(t), (code == exitProblem) == (s.fault != nil)
}

// flowFilter is for connections from ports, echo requests with such an identifier,
// errors about either, and fragments, which have no ports.
func flowFilter(first, ports int) string {
	if ports > 1 {
		return fmt.Sprintf("portrange %d-%d", first, first+ports-1)
	}
	var words []string
	for _, at := range []string{
		"icmp[4:2]", "icmp[28:2]", "icmp[30:2]", "icmp[32:2]", // echo; and in errors source port, destination port, echo
	} {
		words = append(words, fmt.Sprintf("%s = %d", at, first))
	}
	var over6 []string
	for _, at := range []string{"ip6[44:2]", "ip6[88:2]", "ip6[90:2]", "ip6[92:2]"} {
		over6 = append(over6, fmt.Sprintf("%s = %d", at, first))
	}
	return fmt.Sprintf("port %d or %s or (icmp6 and (%s)) or ip[6:2] & 0x1fff != 0 or ip6[6] = 44", first, strings.Join(words, " or "), strings.Join(over6, " or "))
}

// save writes what belongs to a recording: what it is of, and what is printed of it.
func (s *scenarioRow) save(base string, live []byte) error {
	s.Kernel = tracer.KernelRelease()
	about, err := json.MarshalIndent(s.Scenario, "", "  ")
	if err != nil {
		return err
	}
	var text, asJSON bytes.Buffer
	if err := replay([]string{base + ".pcapng"}, &text, replayOptions{output: "text"}); err != nil {
		return err
	}
	if err := replay([]string{base + ".pcapng"}, &asJSON, replayOptions{output: "json"}); err != nil {
		return err
	}
	if !bytes.Equal(asJSON.Bytes(), live) {
		return fmt.Errorf("%s: replay prints\n%s\nlive printed\n%s", s.Name, asJSON.Bytes(), live)
	}
	for file, content := range map[string][]byte{
		base + ".txt": text.Bytes(), base + ".json": asJSON.Bytes(), filepath.Join(filepath.Dir(base), scenarios.ScenarioFile): append(about, '\n'),
	} {
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
