// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
)

// listed is what nfqlb printed for the flow in Meridio's trouble shooting
// guide, and for one with encapsulation in its own documentation.
const listed = `[{
  "name": "tshm-stream1-flow1",
  "priority": 0,
  "protocols": [ "tcp" ],
  "dests": [
    "::ffff:10.0.0.1/128",
    "1000::1:a00:1/128"
  ],
  "dports": [
    "5000-5003"
  ],
  "matches_count": 540,
  "user_ref": "tshm-stream1"
},
{
  "name": "#sctp",
  "priority": 0,
  "protocols": [ "udp" ],
  "dports": [
    "9899"
  ],
  "udpencap": 9899,
  "matches_count": 0,
  "user_ref": "NULL"
}]
`

func TestFlowListIsNfqlbs(t *testing.T) {
	flows, err := ParseFlows([]byte(listed))
	if err != nil {
		t.Fatal(err)
	}
	if f := flows[0]; f.Name != "tshm-stream1-flow1" || f.MatchesCount != 540 || f.Target != "tshm-stream1" || f.DPorts[0] != "5000-5003" {
		t.Errorf("read %+v", f)
	}
	if got := string(FormatFlows(flows)); got != listed {
		t.Errorf("written\n%s\nwant\n%s", got, listed)
	}
	if _, err := compileFlow(flows[0].FlowSpec); err != nil {
		t.Errorf("a listed flow is refused: %v", err)
	}
}

func TestParseFlowsForms(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string // names and matches
	}{
		{"", ""},
		{"[]\n", ""},
		{`{"name":"a"}`, "a[]"},
		{`[{"name":"a","match":["tcp[0:1]=1","udp[0:1]=2"]}]`, "a[tcp[0:1]=1 udp[0:1]=2]"},
		{`[{"name":"a","match":"tcp[0:1]=1,udp[0:1]=2"}]`, "a[tcp[0:1]=1 udp[0:1]=2]"},
	} {
		flows, err := ParseFlows([]byte(c.in))
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
		}
		var got strings.Builder
		for _, f := range flows {
			fmt.Fprintf(&got, "%s%v", f.Name, f.Match)
		}
		if got.String() != c.want {
			t.Errorf("%q: %s, want %s", c.in, &got, c.want)
		}
	}
	if _, err := ParseFlows([]byte("FAIL: no")); err == nil {
		t.Error("a failure was read as a list")
	}
}

func TestReadCommand(t *testing.T) {
	cmd, err := ReadCommand(strings.NewReader("action:set\nname:a\nname:b\nsomething:new\ntarget:t\npriority:-2\nprotocols:tcp, udp\ndsts:10.0.0.1/32,1000::/64\nmatch:tcp[2:2] & 0xff = 1, udp[0:1]=2\neoc:\nrest"))
	if err != nil {
		t.Fatal(err)
	}
	want := FlowSpec{
		Name: "a", Target: "t", Priority: -2, Protocols: []string{"tcp", "udp"},
		Dests: []string{"10.0.0.1/32", "1000::/64"}, Match: []string{"tcp[2:2] & 0xff = 1", "udp[0:1]=2"},
	}
	if cmd.Action != "set" || !sameSpec(cmd.Flow, want) {
		t.Fatalf("got %+v", cmd)
	}
	for _, bad := range []string{
		"", "action:set\n", "action:set\nfoo\neoc:\n", "priority:x\neoc:\n", "dsts:\neoc:\n", "dsts: ,\neoc:\n",
		strings.Repeat("a", 1<<17), strings.Repeat("a:b\n", 1000) + "eoc:\n",
	} {
		if _, err := ReadCommand(strings.NewReader(bad)); err == nil {
			t.Errorf("%.20q: no error", bad)
		}
	}
}

func TestEncodeRefusesNewlines(t *testing.T) {
	c := Command{Action: "delete", Flow: FlowSpec{Name: "a\naction:list"}}
	if _, err := c.Encode(); err == nil {
		t.Fatal("a value with a newline was encoded")
	}
}

// controlled runs a control socket of its own for the test.
func controlled(t *testing.T) *Balancer {
	t.Helper()
	if runtime.GOOS != "linux" {
		unsupportedOS(t)
	}
	t.Setenv("NFQLB_FLOW_ADDRESS", fmt.Sprintf("unix:wm-nfqlb-test-%s", t.Name()))
	b := NewBalancer(Config{}, func(name string) (*Table, error) {
		if name != "t" {
			return nil, errors.New("no such table")
		}
		return NewTable(7, 1, []int{5})
	})
	l, err := ListenControl()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.ServeControl(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

func unsupportedOS(t *testing.T) { t.Skip("abstract unix sockets are a Linux thing") }

func TestControl(t *testing.T) {
	b := controlled(t)
	ctx := t.Context()
	if err := SetFlow(ctx, FlowSpec{Name: "a", Target: "t", DPorts: []string{"80"}, Protocols: []string{"tcp"}}); err != nil {
		t.Fatal(err)
	}
	if err := SetFlow(ctx, FlowSpec{Name: "s", Target: "t", Priority: 5, Protocols: []string{"sctp"}, UDPEncap: 9899}); err != nil {
		t.Fatal(err)
	}
	var p Packet
	if d := b.Decide(ipv4(src4, dst4, protoTCP, 1, 0, ports(1, 80)), &p); d.Mark != 5 {
		t.Fatalf("decision %+v", d)
	}
	// A change keeps the count.
	if err := SetFlow(ctx, FlowSpec{Name: "a", Target: "t", DPorts: []string{"81"}, Protocols: []string{"tcp"}}); err != nil {
		t.Fatal(err)
	}
	flows, err := ListFlows(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(flows) != 3 || flows[0].Name != "#s" || flows[1].Name != "s" || flows[2].Name != "a" || flows[2].MatchesCount != 1 || flows[2].DPorts[0] != "81" {
		t.Fatalf("flows %+v", flows)
	}
	if err := SetFlow(ctx, FlowSpec{Name: "x", Target: "nosuch"}); err == nil || !strings.Contains(err.Error(), "no such table") {
		t.Errorf("unknown target: %v", err)
	}
	if err := SetFlow(ctx, FlowSpec{Name: "x", Target: "t", DPorts: []string{"0"}}); err == nil || !strings.Contains(err.Error(), "dports") {
		t.Errorf("bad port: %v", err)
	}
	if err := DeleteFlow(ctx, "s"); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		cmd  Command
		want string
	}{
		{Command{Action: "list-names"}, "[\n  \"a\"\n]\n"},
		{Command{Action: "list", Flow: FlowSpec{Name: "nosuch"}}, ""},
		{Command{Action: "delete", Flow: FlowSpec{Name: "nosuch"}}, "OK\x00"},
		{Command{Action: "delete"}, "FAIL: no name\x00"},
		{Command{}, "FAIL: no action\x00"},
		{Command{Action: "dance"}, "FAIL: action unknown: \"dance\"\x00"},
		{Command{Action: "delete", Flow: FlowSpec{Name: "a"}}, "OK\x00"},
		{Command{Action: "list-names"}, "[]\n"},
		{Command{Action: "list"}, "[]\n"},
	} {
		got, err := Do(ctx, &c.cmd)
		if err != nil || string(got) != c.want {
			t.Errorf("%+v: %q, %v; want %q", c.cmd, got, err, c.want)
		}
	}
	if got := b.Targets(); len(got) != 0 {
		t.Errorf("targets %v are kept without a flow", got)
	}
}

// A client that says nothing does not hold up the end (in Cleanup).
func TestControlEndsWithSilentClient(t *testing.T) {
	controlled(t)
	_, address, err := controlAddress()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := ListFlows(t.Context()); err != nil { // the silent one was accepted before
		t.Fatal(err)
	}
}

func TestNoBalancer(t *testing.T) {
	t.Setenv("NFQLB_FLOW_ADDRESS", "unix:wm-nfqlb-test-nobody")
	if _, err := ListFlows(t.Context()); !errors.Is(err, ErrNoBalancer) && runtime.GOOS == "linux" {
		t.Fatalf("error %v", err)
	}
	t.Setenv("NFQLB_FLOW_ADDRESS", "carrier:pigeon")
	if _, err := ListFlows(t.Context()); err == nil {
		t.Fatal("no error")
	}
}

func FuzzReadCommand(f *testing.F) {
	f.Add([]byte("action:set\nname:a\ntarget:t\npriority:1\nprotocols:tcp,udp\ndsts:10.0.0.1/32\nsrcs:::/0\ndports:1-2\nsports:3\nmatch:tcp[0:1]=1\nudpencap:1\neoc:\n"))
	f.Add([]byte("eoc:\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		cmd, err := ReadCommand(bytes.NewReader(in))
		if err != nil {
			return
		}
		spec, err := compileFlow(cmd.Flow)
		if err != nil {
			return
		}
		// What was taken is listed so that it can be read and set again.
		cmd.Flow = spec.spec
		out, err := cmd.Encode()
		if err != nil {
			return // a NUL in the action or target
		}
		again, err := ReadCommand(bytes.NewReader(out))
		if err != nil {
			t.Fatalf("%q cannot be read: %v", out, err)
		}
		if !sameSpec(again.Flow, cmd.Flow) {
			t.Fatalf("%+v became %+v", cmd.Flow, again.Flow)
		}
	})
}

func FuzzParseFlows(f *testing.F) {
	f.Add([]byte(listed))
	f.Add([]byte(`{"name":"a","match":"x"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		flows, err := ParseFlows(in)
		if err != nil {
			return
		}
		again, err := ParseFlows(FormatFlows(flows))
		if err != nil || len(again) != len(flows) {
			t.Fatalf("own list cannot be read: %v", err)
		}
	})
}
