// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// cbr0Answers says which server answers a service with br_netfilter, and as whom it
// sees the client: the zero address stands for the client's own.
var cbr0Answers = map[string]struct {
	servers []string
	peer4   netip.Addr
	peer6   netip.Addr
}{
	"pod":      {servers: []string{"pod-2"}},
	"service":  {servers: []string{"pod-1", "pod-2", "pod-3"}},
	"hairpin":  {[]string{"pod-1"}, cbr0BridgeAddr4.Addr(), cbr0BridgeAddr6.Addr()},
	"vpc":      {servers: []string{"ext"}},
	"internet": {[]string{"ext"}, cbr0NodeAddr4.Addr(), cbr0NodeAddr6.Addr()},
	"remote":   {servers: []string{"ext"}},
	"inbound":  {servers: []string{"pod-2"}},
	"agent":    {servers: []string{"agent"}},
	"endpoint": {servers: []string{"pod-3"}},
}

func TestCBR0AnswersAsConfigured(t *testing.T) {
	if testing.Short() {
		t.Skip("short: cmd/waymark sends the same there")
	}
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"br_netfilter on", Options{Lab: "cbr0"}},
		{"br_netfilter off", Options{Lab: "cbr0", NoBridgeNetfilter: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			w := upWith(t, c.o)
			t.Logf("up after %v; %v", time.Since(start), w.Notes())
			if len(cbr0Answers) != len(w.lab.services) {
				t.Fatalf("the lab has %d services, this test knows %d", len(w.lab.services), len(cbr0Answers))
			}
			for _, s := range w.lab.services {
				for kind, traffic := range kinds {
					t.Run(s.name+"/"+kind, func(t *testing.T) {
						traffic.To = s.name
						checkCBR0Answers(t, w, traffic)
					})
				}
			}
		})
	}
}

func checkCBR0Answers(t *testing.T, w *World, traffic Traffic) {
	want, ok := cbr0Answers[traffic.To]
	if !ok {
		t.Fatal("this test does not know the service")
	}
	const each = 4
	traffic.Connections, traffic.Timeout = each*len(want.servers), 2*time.Second
	counts := map[string]int{}
	for _, name := range want.servers {
		counts[name] = each
	}
	lost := 0
	if traffic.To == "service" && w.record.NoBridgeNetfilter {
		// Replies from pod to pod pass the bridge untranslated: only p1's own are
		// routed, and answered.
		traffic.Timeout = 300 * time.Millisecond
		counts, lost = map[string]int{"pod-1": each}, 2*each
	}
	peer := want.peer4
	if traffic.IPv6 {
		peer = want.peer6
	}
	sum, err := w.Send(timeout(t), traffic, func(x Exchange) {
		if x.Err != nil {
			return // counted
		}
		seen := x.Local
		switch {
		case peer.IsValid():
			seen = netip.AddrPortFrom(peer, x.Reply.Peer.Port()) // masquerade may change the port
		case x.Reply.Target == "pod-1": // p1's service chose p1 itself
			seen = netip.AddrPortFrom(cbr0Answers["hairpin"].peer4, x.Reply.Peer.Port())
			if traffic.IPv6 {
				seen = netip.AddrPortFrom(cbr0Answers["hairpin"].peer6, x.Reply.Peer.Port())
			}
		case traffic.To == "service": // conntrack gives it another port if that one is taken towards the pod
			seen = netip.AddrPortFrom(x.Local.Addr(), x.Reply.Peer.Port())
		}
		if x.Reply.Peer != seen {
			t.Errorf("from %s: %s saw %s, want %s", x.Local, x.Reply.Target, x.Reply.Peer, seen)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(sum.Targets, counts) || sum.Failed != lost {
		t.Errorf("%+v; want answers of %v and %d without", sum, counts, lost)
	}
}

// cbr0Breaks says what each fault breaks and what it leaves alone.
var cbr0Breaks = map[string]struct{ breaks, spares []Traffic }{
	"cbr0-down":    {[]Traffic{{}, {IPv6: true}, {To: "hairpin"}, {To: "internet"}}, nil},
	"hairpin-off":  {[]Traffic{{To: "hairpin"}, {To: "hairpin", UDP: true}, {To: "hairpin", IPv6: true}}, []Traffic{{}, {To: "internet"}}},
	"no-bridge-nf": {[]Traffic{{To: "service"}, {To: "service", UDP: true}, {To: "service", IPv6: true}}, []Traffic{{}, {To: "hairpin"}, {To: "internet"}}},
	"forward-drop": {[]Traffic{{To: "internet"}, {To: "internet", UDP: true}, {To: "vpc", IPv6: true}, {To: "inbound"}, {}}, nil},
	"small-mtu":    {[]Traffic{{Size: 1420}, {Size: 1420, UDP: true}}, []Traffic{{}, {UDP: true}, {To: "internet", Size: 1420}}},

	"pod-not-listening": {[]Traffic{{}, {UDP: true}, {To: "service"}, {To: "inbound", IPv6: true}}, []Traffic{{To: "hairpin"}, {To: "endpoint"}}},
	"pod-gone":          {[]Traffic{{}, {To: "service"}, {To: "inbound", IPv6: true}}, []Traffic{{To: "hairpin"}, {To: "endpoint"}}},
	"small-pod-mtu":     {[]Traffic{{Size: 1420, UDP: true}, {Size: 1420, UDP: true, IPv6: true}}, []Traffic{{}, {UDP: true}, {Size: 1420}}},
	"fdb-unlearned":     {[]Traffic{{}, {IPv6: true}, {UDP: true}}, []Traffic{{To: "internet"}, {To: "endpoint"}}},

	"icmp-filtered":          {[]Traffic{{To: "agent", Ping: true}, {To: "agent", Ping: true, IPv6: true}}, []Traffic{{To: "agent"}, {To: "endpoint", Ping: true}}},
	"agent-filtered":         {[]Traffic{{To: "agent"}, {To: "agent", IPv6: true}}, []Traffic{{To: "agent", Ping: true}, {To: "endpoint"}}},
	"endpoint-icmp-filtered": {[]Traffic{{To: "endpoint", Ping: true}, {To: "endpoint", Ping: true, IPv6: true}}, []Traffic{{To: "endpoint"}, {To: "agent", Ping: true}}},
	"endpoint-filtered":      {[]Traffic{{To: "endpoint"}, {To: "endpoint", IPv6: true}}, []Traffic{{To: "endpoint", Ping: true}, {To: "agent"}, {To: "inbound"}}},

	"conntrack-full": {[]Traffic{{To: "inbound"}, {To: "agent", IPv6: true}, {To: "service", UDP: true}}, nil},
	"ptb-filtered": {
		[]Traffic{{To: "vpc", Size: 1420}, {To: "vpc", Size: 1420, IPv6: true}, {To: "vpc", Size: 1420, UDP: true}},
		[]Traffic{{To: "vpc"}, {To: "inbound"}, {Size: 1420}},
	},
	"routing-loop": {[]Traffic{{To: "remote"}, {To: "remote", IPv6: true}, {To: "remote", UDP: true}}, []Traffic{{}, {To: "internet"}}},
}

func TestCBR0FaultsBreakAndClear(t *testing.T) {
	faultsOnce(t)
	w := upLab(t, cbr0)
	for _, f := range w.lab.faults {
		t.Run(f.Name, func(t *testing.T) {
			for range 2 { // any number of times
				if err := w.Fault(timeout(t), f.Name); err != nil {
					t.Fatal(err)
				}
			}
			effect, ok := cbr0Breaks[f.Name]
			if !ok {
				t.Fatal("this test does not know the fault")
			}
			var all sync.WaitGroup
			for _, traffic := range effect.breaks {
				traffic.Timeout = soon
				all.Go(func() {
					traffic.Connections, traffic.Concurrency = 12, 12
					if sum, err := w.Send(timeout(t), traffic, nil); err != nil || sum.Failed == 0 {
						t.Errorf("%+v: every packet was answered in spite of the fault: %+v, %v", traffic, sum, err)
					}
				})
			}
			all.Wait()
			answered(t, w, effect.spares)
			for range 2 {
				if err := w.Clear(timeout(t), f.Name); err != nil {
					t.Fatal(err)
				}
			}
			answered(t, w, effect.breaks)
		})
	}
	t.Run("together", func(t *testing.T) {
		for _, f := range w.lab.faults {
			if err := w.Fault(timeout(t), f.Name); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Clear(timeout(t), ""); err != nil {
			t.Fatal(err)
		}
		for _, s := range w.lab.services {
			answered(t, w, []Traffic{{To: s.name}, {To: s.name, IPv6: true}})
		}
	})
}

func answered(t *testing.T, w *World, all []Traffic) {
	t.Helper()
	for _, traffic := range all {
		traffic.Connections = 6
		if sum, err := w.Send(timeout(t), traffic, nil); err != nil || sum.Failed > 0 {
			t.Errorf("%+v: not all were answered: %+v, %v", traffic, sum, err)
		}
	}
}

// TestCBR0FaultsThatNeedBridgeNetfilter: without br_netfilter some faults would
// break nothing, and setting one must not pretend it did.
func TestCBR0FaultsThatNeedBridgeNetfilter(t *testing.T) {
	w := upWith(t, Options{Lab: "cbr0", NoBridgeNetfilter: true})
	for _, name := range []string{"hairpin-off", "no-bridge-nf"} {
		if err := w.Fault(timeout(t), name); err == nil || !strings.Contains(err.Error(), "br_netfilter") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if active := w.Active(); len(active) > 0 {
		t.Errorf("refused, but set: %v", active)
	}
	if err := w.Fault(timeout(t), "small-mtu"); err != nil {
		t.Fatal(err)
	}
	// There is nobody to tell the sender of an IPv6 packet either.
	for _, v6 := range []bool{false, true} {
		if sum := send(t, w, Traffic{Size: 1420, IPv6: v6, Timeout: soon}); sum.Answered > 0 {
			t.Errorf("large packets were answered: %+v", sum)
		}
	}
}

func TestCBR0DownLeavesNothing(t *testing.T) {
	before := exists("/sys/module/" + bridgeNetfilterModule)
	w := upLab(t, cbr0)
	limit, err := readNumber(conntrackLimit)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cbr0-down", "forward-drop", "conntrack-full"} {
		if err := w.Fault(timeout(t), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Down(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, cbr0)
	if now, err := readNumber(conntrackLimit); err == nil && now != limit {
		t.Errorf("the machine may track %d connections, it was %d", now, limit)
	}
	if after := exists("/sys/module/" + bridgeNetfilterModule); after != before {
		t.Errorf("module %s: there before: %v, after: %v", bridgeNetfilterModule, before, after)
	}
	if err := Down("cbr0"); err != nil {
		t.Errorf("a second down: %v", err)
	}
}

// TestCBR0SparesTheMachinesBridges asks for br_netfilter where a bridge is the
// machine's own: here the machine is the lab's node.
func TestCBR0SparesTheMachinesBridges(t *testing.T) {
	w := upWith(t, Options{Lab: "cbr0", NoBridgeNetfilter: true})
	had, err := w.hasBridgeNetfilter(cbr0Node)
	if err != nil {
		t.Fatal(err)
	}
	err = w.Inside(cbr0Node, func() error { return w.loadBridgeNetfilter(cbr0Node) })
	if had && err != nil {
		t.Errorf("the kernel has it already: %v", err)
	}
	if !had && (!errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "bridge cbr0")) {
		t.Errorf("it has to be loaded, and there is a bridge: %v", err)
	}
	if has, err := w.hasBridgeNetfilter(cbr0Node); err != nil || has != had {
		t.Errorf("br_netfilter there before: %v, after: %v, %v", had, has, err)
	}
}

// TestOptionsOfOtherLabs: an option that makes no difference is refused, not
// swallowed.
func TestOptionsOfOtherLabs(t *testing.T) {
	if os.Geteuid() != 0 {
		cannot(t, "a lab takes root")
	}
	for _, o := range []Options{
		{Lab: "meridio", NoBridgeNetfilter: true},
		{Lab: "cbr0", Balancer: "/bin/true"},
		{Lab: "cbr0", External: "vxlan"},
		{Lab: "meridio", External: "string"},
	} {
		w, err := Up(timeout(t), o)
		if err == nil {
			w.Down()
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestUnknownService(t *testing.T) {
	for l, want := range map[*lab]string{meridio: "no name", cbr0: "hairpin"} {
		_, err := l.findService("atlantis")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %q", l.name, err, want)
		}
	}
}
