// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ipvsKinds are all kinds of traffic the lab answers.
var ipvsKinds = map[string]Traffic{
	"direct tcp4": {To: "direct"},
	"direct tcp6": {To: "direct", IPv6: true},
	"direct udp4": {To: "direct", UDP: true},
	"direct udp6": {To: "direct", UDP: true, IPv6: true},
	"tunnel tcp4": {To: "tunnel"},
	"tunnel udp4": {To: "tunnel", UDP: true},
	"arp tcp4":    {To: "arp"},
	"arp udp4":    {To: "arp", UDP: true},
	"masq tcp4":   {To: "masq"},
	"masq tcp6":   {To: "masq", IPv6: true},
	"masq udp4":   {To: "masq", UDP: true},
	"masq udp6":   {To: "masq", UDP: true, IPv6: true},
}

// TestIPVSAnswersAsScheduled compares who answered with what the directors'
// connection tables say.
func TestIPVSAnswersAsScheduled(t *testing.T) {
	start := time.Now()
	w := upLab(t, ipvs)
	t.Logf("up after %v", time.Since(start))
	servers := map[netip.AddrPort]string{}
	for i, r := range ipvsRealservers {
		pod, own := fmt.Sprintf("pod-%d", i+1), fmt.Sprintf("rs-%d", i+1)
		servers[netip.AddrPortFrom(r.addr4, ipvsDirectPort)] = pod
		servers[netip.AddrPortFrom(r.addr4, ipvsTunnelPort)] = pod
		servers[netip.AddrPortFrom(r.addr4, ipvsARPPort)] = pod
		servers[netip.AddrPortFrom(r.addr4, ipvsServerPort)] = own
		servers[netip.AddrPortFrom(r.addr6, ipvsDirectPort)] = own
		servers[netip.AddrPortFrom(r.addr6, ipvsServerPort)] = own
	}
	for _, kind := range slices.Sorted(maps.Keys(ipvsKinds)) {
		traffic := ipvsKinds[kind]
		t.Run(kind, func(t *testing.T) {
			const n = 24
			traffic.Connections = n
			var all []Exchange
			sum, err := w.Send(timeout(t), traffic, func(x Exchange) { all = append(all, x) })
			if err != nil || sum.Answered != n {
				t.Fatalf("%+v, %v", sum, err)
			}
			scheduled := map[ipvsConnection]map[string]netip.AddrPort{} // by director
			for _, d := range ipvsDirectors {
				for c, dest := range ipvsConnections(t, w, d.node) {
					if scheduled[c] == nil {
						scheduled[c] = map[string]netip.AddrPort{}
					}
					scheduled[c][d.node] = dest
				}
			}
			perDirector := map[string]map[string]int{}
			for _, x := range all {
				at := scheduled[ipvsConnection{sum.Proto, x.Local, x.Remote}]
				if len(at) != 1 {
					t.Errorf("%s to %s is in the tables of %d directors: %v", x.Local, x.Remote, len(at), at)
				}
				for director, dest := range at {
					if servers[dest] != x.Reply.Target {
						t.Errorf("%s sent %s to %s, but %s answered", director, x.Local, dest, x.Reply.Target)
					}
					if perDirector[director] == nil {
						perDirector[director] = map[string]int{}
					}
					perDirector[director][x.Reply.Target]++
				}
				// What went through a realserver's rules comes from the realserver.
				want := x.Local.Addr()
				if traffic.To != "masq" && !traffic.IPv6 {
					want = ipvsPodGateway
				}
				if x.Reply.Peer.Addr() != want {
					t.Errorf("%s saw a client %s, want %s", x.Reply.Target, x.Reply.Peer, want)
				}
			}
			want := len(ipvsDirectors)
			if traffic.To == "masq" || traffic.To == "arp" {
				want = 1 // the router knows one way to its address
			}
			if len(perDirector) != want {
				t.Errorf("directors that took part: %v, want %d", perDirector, want)
			}
			for director, targets := range perDirector {
				// Weights are equal: round robin. One more turn, that no exchange
				// here tells of, makes one two more than the other: seen once, 5 and 7.
				counts := slices.Sorted(maps.Values(targets))
				alone := traffic.To == "arp" // one realserver has its pods
				if len(counts) == 1 && counts[0] > 1 && !alone || len(counts) == 2 && counts[1]-counts[0] > 2 {
					t.Errorf("%s did not take turns: %v", director, targets)
				}
			}
			t.Log(perDirector)
		})
	}
	t.Run("large", func(t *testing.T) {
		for kind, traffic := range ipvsKinds {
			traffic.Connections, traffic.Size = 6, 4000
			if sum, err := w.Send(timeout(t), traffic, nil); err != nil || sum.Failed > 0 {
				t.Errorf("%s with 4000 bytes: %+v, %v", kind, sum, err)
			}
		}
	})
}

// ipvsConnection is the client's side of a connection.
type ipvsConnection struct {
	proto    string
	from, to netip.AddrPort
}

// ipvsConnections reads a director's connections and their destinations from
// /proc/net/ip_vs_conn (ip_vs_conn.c ip_vs_conn_seq_show): protocol, then three
// pairs of address and port in hexadecimal.
func ipvsConnections(t *testing.T, w *World, director string) map[ipvsConnection]netip.AddrPort {
	t.Helper()
	var table []byte
	err := w.Inside(director, func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/ip_vs_conn")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	all := map[ipvsConnection]netip.AddrPort{}
	for line := range bytes.Lines(table) {
		f := bytes.Fields(line)
		if len(f) < 8 || string(f[0]) == "Pro" {
			continue
		}
		var ends [3]netip.AddrPort
		for i := range ends {
			ends[i] = hexAddrPort(t, string(f[1+2*i]), string(f[2+2*i]))
		}
		all[ipvsConnection{string(bytes.ToLower(f[0])), ends[0], ends[1]}] = ends[2]
	}
	return all
}

// hexAddrPort reads C6336402 or 2001:0db8:… and a port.
func hexAddrPort(t *testing.T, addr, port string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddr(addr)
	if b, wrong := hex.DecodeString(addr); wrong == nil && len(b) == 4 {
		a, err = netip.AddrFrom4([4]byte(b)), nil
	}
	p, wrong := strconv.ParseUint(port, 16, 16)
	if err != nil || wrong != nil {
		t.Fatalf("address %q port %q: %v %v", addr, port, err, wrong)
	}
	return netip.AddrPortFrom(a, uint16(p))
}

// ipvsBroken are the kinds of traffic that each fault breaks, in part; the others
// must not notice it.
var ipvsBroken = map[string][]string{
	"service-missing":  {"direct tcp4", "direct tcp6", "direct udp4", "direct udp6"},
	"weight-0":         {"direct tcp4", "direct tcp6", "direct udp4", "direct udp6"},
	"no-ravel-rules":   {"direct tcp4", "direct udp4", "tunnel tcp4", "tunnel udp4"},
	"tunnel-rp-filter": {"tunnel tcp4", "tunnel udp4"},
	"vip-missing":      {"direct tcp4", "direct tcp6", "direct udp4", "direct udp6", "tunnel tcp4", "tunnel udp4"},
	"arp-answers":      {"arp tcp4", "arp udp4"},
	"split-flows":      {"direct tcp4", "direct tcp6"},
	"table-empty":      {"direct tcp4", "direct tcp6", "direct udp4", "direct udp6", "tunnel tcp4", "tunnel udp4"},
	"conntrack-full":   {"direct tcp4", "direct udp4", "tunnel tcp4", "tunnel udp4", "masq tcp4", "masq udp4"},
	"idle-timeout":     {"direct tcp4", "direct tcp6", "tunnel tcp4"},
	"destination-gone": {"direct tcp4", "direct tcp6", "direct udp4", "direct udp6"},
	"port-reused":      {"direct tcp4", "tunnel tcp4"},

	"taken-up-elsewhere": {"direct tcp6"},
}

// ipvsParted are faults that show in what has two parts.
var ipvsParted = map[string]Traffic{
	"idle-timeout":     {Pause: 1500 * time.Millisecond},
	"destination-gone": {Amid: "destination-gone"},
	"port-reused":      {Amid: "port-reused", Again: true},
}

func TestIPVSFaultsBreakAndClear(t *testing.T) {
	w := upLab(t, ipvs)
	port := uint16(20000) // each once: a director remembers where it sent a port's packets
	kernelPorts := false
	send := func(kind string, connections int, timeLimit time.Duration, parts Traffic) Summary {
		traffic := ipvsKinds[kind]
		traffic.Connections, traffic.Concurrency, traffic.Timeout = connections, connections, timeLimit
		traffic.Pause, traffic.Amid, traffic.Again = parts.Pause, parts.Amid, parts.Again
		if !kernelPorts {
			traffic.Source = netip.AddrPortFrom(netip.Addr{}, port)
			port += uint16(connections)
		}
		sum, err := w.Send(timeout(t), traffic, nil)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	const (
		each = 24 // that each director and each realserver gets some
		some = 6
	)
	for _, f := range ipvs.faults {
		t.Run(f.Name, func(t *testing.T) {
			for range 2 { // any number of times
				if err := w.Fault(timeout(t), f.Name); err != nil {
					t.Fatal(err)
				}
			}
			broken := ipvsBroken[f.Name]
			whole := f.Name == "arp-answers" // the address has one way
			if kernelPorts = f.KernelPorts; kernelPorts {
				broken, whole = slices.Sorted(maps.Keys(ipvsKinds)), true // it is the client's
			}
			for kind := range ipvsKinds {
				if slices.Contains(broken, kind) {
					if sum := send(kind, each, 600*time.Millisecond, ipvsParted[f.Name]); sum.Failed == 0 || sum.Answered == 0 && !whole {
						t.Errorf("%s: the fault must break a part of it: %+v", kind, sum)
					}
				} else if sum := send(kind, some, defaultTimeout, Traffic{}); sum.Failed > 0 {
					t.Errorf("%s: the fault must not touch it: %+v", kind, sum)
				}
			}
			for range 2 {
				if err := w.Clear(timeout(t), f.Name); err != nil {
					t.Fatal(err)
				}
			}
			for _, kind := range broken {
				if sum := send(kind, some, defaultTimeout, Traffic{}); sum.Failed > 0 {
					t.Errorf("%s: not repaired: %+v", kind, sum)
				}
			}
		})
	}
}

// TestIPVSRouterKeepsItsChoice has connections send their first packet again: the
// router must send it the same way.
func TestIPVSRouterKeepsItsChoice(t *testing.T) {
	w := upLab(t, ipvs)
	if err := w.Fault(timeout(t), "tunnel-rp-filter"); err != nil {
		t.Fatal(err)
	}
	// The kernel sends again after a second.
	sum, err := w.Send(timeout(t), Traffic{To: "tunnel", Connections: 40, Concurrency: 40, Timeout: 1500 * time.Millisecond}, nil)
	if err != nil || sum.Failed == 0 {
		t.Fatalf("%+v, %v", sum, err)
	}
	first := ipvsConnections(t, w, ipvsDirectors[0].node)
	for c := range ipvsConnections(t, w, ipvsDirectors[1].node) {
		if _, both := first[c]; both {
			t.Errorf("%s to %s went to both directors", c.from, c.to)
		}
	}
}

func TestIPVSServices(t *testing.T) {
	w := &World{lab: ipvs}
	_, err := w.Send(timeout(t), Traffic{To: "tunnel", IPv6: true}, nil)
	if err == nil || !strings.Contains(err.Error(), "tunnel has no IPv6") {
		t.Errorf("IPv6 into a tunnel of IPv4: %v", err)
	}
}

func TestIPVSDownLeavesNothing(t *testing.T) {
	had := map[string]bool{} // by the machine itself
	for _, device := range deviceModules {
		_, err := net.InterfaceByName(device)
		had[device] = err == nil
	}
	w := upLab(t, ipvs)
	services := len(ipvsDirectors) * len(ipvsTable())
	if users := moduleUsers("ip_vs_wrr"); users < services {
		t.Errorf("the scheduler has %d users, want one for each of %d services", users, services)
	}
	if err := w.Down(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, ipvs)
	for module, device := range deviceModules {
		if inGuest() && exists("/sys/module/"+module) {
			t.Errorf("module %s is still there", module)
		}
		if _, err := net.InterfaceByName(device); err == nil && !had[device] {
			t.Errorf("the machine has got a device %s", device)
		}
	}
	// A namespace ends some time after its last user, and its services with it.
	for deadline := time.Now().Add(30 * time.Second); inGuest() && moduleUsers("ip_vs_wrr") > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d services are left in the kernel", moduleUsers("ip_vs_wrr"))
		}
	}
	if err := Down(ipvs.name); err != nil {
		t.Errorf("a second down: %v", err)
	}
}

// moduleUsers is a module's count of users (proc_modules(5), third column).
func moduleUsers(name string) int {
	table, _ := os.ReadFile("/proc/modules")
	for line := range bytes.Lines(table) {
		f := bytes.Fields(line)
		if len(f) > 2 && string(f[0]) == name {
			n, _ := strconv.Atoi(string(f[2]))
			return n
		}
	}
	return 0
}
