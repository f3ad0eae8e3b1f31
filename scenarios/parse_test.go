// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"bytes"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

const catStat = "4711 (cat) R 4700 4711 4700 34816 4711 4194304 92 0 0 0 0 0 0 0 20 0 1 0 123456 8376320 216 18446744073709551615 0 0"

func TestParseStat(t *testing.T) {
	for name, c := range map[string]struct {
		stat  string
		state byte
		start uint64
		ok    bool
	}{
		"plain":                    {catStat, 'R', 123456, true},
		"name like other fields":   {strings.Replace(catStat, "(cat)", "(a) Z 1 (b)", 1), 'R', 123456, true},
		"no name":                  {"4711 cat R 1", 0, 0, false},
		"cut off":                  {catStat[:40], 0, 0, false},
		"start time not a number":  {strings.Replace(catStat, "123456", "x", 1), 0, 0, false},
		"nothing after the name":   {"1 (x)", 0, 0, false},
		"nothing at all":           {"", 0, 0, false},
		"start time out of bounds": {strings.Replace(catStat, "123456", "99999999999999999999", 1), 0, 0, false},
	} {
		state, start, err := parseStat([]byte(c.stat))
		if (err == nil) != c.ok {
			t.Errorf("%s: error %v", name, err)
		}
		if c.ok && (state != c.state || start != c.start) {
			t.Errorf("%s: %c started at %d, want %c at %d", name, state, start, c.state, c.start)
		}
	}
	if start, err := startTime(os.Getpid()); err != nil || start == 0 {
		t.Errorf("this process started at %d, %v", start, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte(catStat))
	f.Add([]byte("1 (x) S"))
	f.Fuzz(func(t *testing.T, stat []byte) {
		_, _, _ = parseStat(stat)
	})
}

const queueTable = "    0  22410     0 2 65531     0     0        0  1\n    3 4294967295     7 2 65531     0     0        7  1\n"

func TestBoundQueues(t *testing.T) {
	for table, want := range map[string][]uint16{
		queueTable:     {0, 3},
		"":             nil,
		"70000 1 2\n":  nil,
		"junk\n 1 2 3": {1},
	} {
		if got := boundQueues([]byte(table)); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", table, got, want)
		}
	}
}

const unixTable = `Num       RefCount Protocol Flags    Type St Inode Path
ffff8880: 00000002 00000000 00010000 0001 01 20001 @nfqlb
ffff8881: 00000003 00000000 00000000 0001 03 20002 @other
`

func TestListening(t *testing.T) {
	for path, want := range map[string]bool{"@nfqlb": true, "@other": false, "@nf": false, "Path": false} {
		if got := listening([]byte(unixTable), path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

func FuzzProcTables(f *testing.F) {
	f.Add([]byte(queueTable))
	f.Add([]byte(unixTable))
	f.Fuzz(func(t *testing.T, table []byte) {
		boundQueues(table)
		listening(table, controlSocket)
	})
}

func TestReply(t *testing.T) {
	for _, peer := range []string{"200.100.0.1:40000", "[200:100::1]:1"} {
		sent := Reply{"target-1", netip.MustParseAddrPort(peer), 32}
		got, err := ParseReply(string(reply(sent.Target, sent.Peer, sent.Bytes)))
		if err != nil || got != sent {
			t.Errorf("%+v came back as %+v, %v", sent, got, err)
		}
	}
	mapped := netip.MustParseAddrPort("[::ffff:10.0.0.9]:7")
	if got := string(reply("t", mapped, 1)); got != "t 10.0.0.9:7 1\n" {
		t.Errorf("a mapped address is written %q", got)
	}
	for _, line := range []string{"", "a b", "a 1.2.3.4:5 x", "a 1.2.3.4:5 -1", "a 1.2.3.4 5", "a 1.2.3.4:5 6 7"} {
		if r, err := ParseReply(line); err == nil {
			t.Errorf("%q was read as %+v", line, r)
		}
	}
}

func FuzzParseReply(f *testing.F) {
	f.Add("target-1 200.100.0.1:40000 32")
	f.Add("t [200:100::1]:1 0\n")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := ParseReply(line)
		if err != nil || r.Peer.Addr().Is4In6() {
			return
		}
		if again, err := ParseReply(string(reply(r.Target, r.Peer, r.Bytes))); err != nil || again != r {
			t.Errorf("%+v came back as %+v, %v", r, again, err)
		}
	})
}

func TestReadProcessesStopsAtACut(t *testing.T) {
	whole := `{"role":"balancer","node":"lb","pid":7,"start":9}` + "\n"
	for name, c := range map[string]struct {
		file string
		want int
	}{
		"whole":             {whole + whole, 2},
		"cut":               {whole + whole[:20], 1},
		"empty":             {"", 0},
		"pid of a group":    {`{"role":"x","pid":-1,"start":1}`, 0},
		"pid zero":          {`{"role":"x","start":1}` + "\n" + whole, 1},
		"something else":    {"pid 7\n", 0},
		"pid of wrong type": {`{"pid":"7"}`, 0},
	} {
		if got := readProcesses(strings.NewReader(c.file)); len(got) != c.want {
			t.Errorf("%s: %v, want %d", name, got, c.want)
		}
	}
}

func FuzzReadProcesses(f *testing.F) {
	f.Add([]byte(`{"role":"balancer","node":"lb","pid":7,"start":9}` + "\n"))
	f.Add([]byte(`{"pid":-1}`))
	f.Fuzz(func(t *testing.T, file []byte) {
		for _, p := range readProcesses(bytes.NewReader(file)) {
			if p.PID <= 0 {
				t.Errorf("pid %d would address a group", p.PID)
			}
		}
	})
}

func TestFaultTables(t *testing.T) {
	all := slices.Clone(labs)
	for _, l := range labs {
		all = slices.AppendSeq(all, maps.Values(l.externals))
	}
	for _, l := range all {
		devices := append(l.plan.devices(), meridioSecondToProxy) // which a fault makes
		seen := map[string]bool{}
		for _, f := range l.faults {
			if seen[f.Name] {
				t.Errorf("%s: fault %s is there twice", l.name, f.Name)
			}
			seen[f.Name] = true
			if f.break_ == nil || f.fix == nil || f.Question == "" || f.Brief == "" || f.Expect.Advice == "" || len(f.Traffic) == 0 || (len(f.Expect.Drops) == 0) == (len(f.Expect.Silent) == 0) {
				t.Errorf("%s: fault %s is not complete", l.name, f.Name)
			}
			if !slices.ContainsFunc(l.plan.nodes, func(n string) bool { return l.namespace(n) == f.Expect.Netns }) {
				t.Errorf("%s: fault %s expects a drop in %s, which is not of the lab", l.name, f.Name, f.Expect.Netns)
			}
			// Of a packet that never was no device tells.
			if f.Expect.Dev != "" && !slices.ContainsFunc(devices, func(d port) bool {
				return d.dev == f.Expect.Dev && l.namespace(d.node) == f.Expect.Netns
			}) {
				t.Errorf("%s: fault %s expects a drop at %s, which is not a device of %s", l.name, f.Name, f.Expect.Dev, f.Expect.Netns)
			}
		}
	}
}

func TestTrafficParameters(t *testing.T) {
	for name, c := range map[string]struct {
		traffic Traffic
		ok      bool
	}{
		"nothing given":        {Traffic{}, true},
		"wrong family":         {Traffic{IPv6: true, Source: netip.MustParseAddrPort("200.100.0.1:0")}, false},
		"too large a datagram": {Traffic{UDP: true, Size: 65508}, false},
		"largest datagram":     {Traffic{UDP: true, Size: 65507}, true},
		"ports run out":        {Traffic{Connections: 2, Source: netip.MustParseAddrPort("200.100.0.1:65535")}, false},
		"last port":            {Traffic{Connections: 1, Source: netip.MustParseAddrPort("200.100.0.1:65535")}, true},
		"negative":             {Traffic{Connections: -1}, false},
		"echo requests":        {Traffic{Ping: true}, true},
		"which of the two":     {Traffic{Ping: true, UDP: true}, false},
	} {
		_, dst, err := meridio.service.complete(c.traffic)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if c.ok && !dst.IsValid() {
			t.Errorf("%s: no destination", name)
		}
	}
}

func TestUnknownNames(t *testing.T) {
	if _, err := Load("nowhere"); err == nil || !strings.Contains(err.Error(), "meridio") {
		t.Errorf("an unknown lab: %v; it should list those there are", err)
	}
	if _, err := meridio.findFault("bad-luck"); err == nil || !strings.Contains(err.Error(), "rp-filter") {
		t.Errorf("an unknown fault: %v; it should list those there are", err)
	}
}
