// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"waymark/scenarios"
	"waymark/tracer/place"
)

// socketHops are the details of a journey's hops in the socket group with that
// hook.
func (j *journey) socketHops(hook string) (details []map[string]any) {
	for _, h := range j.Hops {
		if h.Group == "socket" && h.Hook == hook {
			details = append(details, h.Detail)
		}
	}
	return details
}

// TestTraceNamesTheSocket: every packet of a connection ends in a socket; those
// of the target belong to its server, and an echo reply to the ping socket that
// asked.
func TestTraceNamesTheSocket(t *testing.T) {
	needFunctions(t)
	w := labUpFor(t)
	cases := map[string]struct {
		traffic scenarios.Traffic
		local   string
	}{
		"IPv4":     {scenarios.Traffic{}, "10.0.0.1:5000"},
		"IPv6":     {scenarios.Traffic{IPv6: true}, "[1000::1:a00:1]:5000"},
		"IPv4 UDP": {scenarios.Traffic{UDP: true}, "10.0.0.1:5000"},
		"IPv6 UDP": {scenarios.Traffic{UDP: true, IPv6: true}, "[1000::1:a00:1]:5000"},
	}
	file := filepath.Join(t.TempDir(), "x.pcapng")
	args := append([]string{"trace", "--hooks", "device,socket,drop,free", "-o", "json", "-w", file}, netnsFlags(w)...)
	tr := start(t, append(args, "port 5000 or icmp")...)
	const connections = 3
	for name, c := range cases {
		c.traffic.Connections = connections
		if sum, err := w.Send(ctxBackground, c.traffic, nil); err != nil || sum.Answered != connections {
			t.Fatalf("%s: %+v: %v", name, sum, err)
		}
	}
	id := pingSocket(t, w, "10.0.0.1")
	out := tr.stop(t)
	all := parseJourneys(t, out)
	t.Run("ping", func(t *testing.T) {
		reply := find(all, func(j *journey) bool { return j.Packet.Proto == "icmp" && j.Reply })
		if reply == nil {
			t.Fatal("no journey of the echo reply")
		}
		took := reply.socketHops("receive")
		if len(took) != 1 || reply.Outcome != "delivered" || took[0]["proto"] != "icmp" || took[0]["id"] != float64(id) {
			t.Errorf("the reply to %d is %s, to %v", id, reply.Outcome, took)
		}
	})
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			want := map[string]int{"S LISTEN": connections, "reply S. SYN_SENT": connections}
			if c.traffic.UDP {
				want = map[string]int{" <nil>": connections, "reply  <nil>": connections}
			}
			states := map[string]int{}
			for _, j := range all {
				if strings.HasSuffix(j.Flow, c.local) && strings.HasPrefix(j.Flow, "udp") == c.traffic.UDP && !j.refusedByTCP() {
					states[checkSocket(t, &j, c.local)]++
				}
			}
			t.Logf("packets by the state of their socket: %v", states)
			for s, n := range want {
				if states[s] < n { // a slow machine sends again
					t.Errorf("%d packets %q, want %d", states[s], s, n)
				}
			}
		})
	}
	if replayed, stderr, code := run0(t, "replay", "-o", "json", file); code != 0 || replayed != string(out) {
		t.Errorf("replay (exit %d, %s) prints\n%s\nlive printed\n%s", code, stderr, replayed, out)
	}
}

// pingSocket asks dst for an echo, from the client of the Meridio lab, through a
// socket that is for that alone, and returns the request's identifier.
func pingSocket(t *testing.T, w *scenarios.World, dst string) (id int) {
	t.Helper()
	var c *icmp.PacketConn
	if err := w.Inside("gw", func() (err error) {
		if err = os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0); err == nil {
			c, err = icmp.ListenPacket("udp4", "200.100.0.1")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	request, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{Seq: 1}}).Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo(request, &net.UDPAddr{IP: net.ParseIP(dst)}); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, _, err := c.ReadFrom(make([]byte, 1500)); err != nil {
		t.Fatalf("no echo reply: %v", err)
	}
	return c.LocalAddr().(*net.UDPAddr).Port
}

// checkSocket wants one socket to take the packet, and of the target's that it
// is the server's, bound to local. It returns flags and state in words.
func checkSocket(t *testing.T, j *journey, local string) string {
	t.Helper()
	took := j.socketHops("receive")
	if len(took) != 1 || j.Outcome != "delivered" {
		t.Errorf("%s %s is %s, by %d sockets: %v", j.ID, j.Packet.Flags, j.Outcome, len(took), took)
		return "?"
	}
	d := took[0]
	words := fmt.Sprint(j.Packet.Flags, " ", d["state"])
	if j.Reply {
		return "reply " + words
	}
	if d["local"] != local {
		t.Errorf("%s %s is for %s, its socket is %s", j.ID, j.Packet.Flags, local, d["local"])
	}
	if d["closed"] != true && d["state"] != "TIME_WAIT" {
		if err := ownedBy(d, j.Hops[len(j.Hops)-1].Netns); err != nil {
			t.Errorf("%s %s: %v: %v", j.ID, j.Packet.Flags, err, d)
		}
	}
	return words
}

// ownedBy wants the lab's server as the process, which lives in the namespace.
func ownedBy(d map[string]any, namespace string) error {
	name := filepath.Base(waymarkBin)
	if d["process"] != name[:min(len(name), 15)] { // TASK_COMM_LEN
		return fmt.Errorf("process %v, want %s", d["process"], name)
	}
	pid, _ := d["pid"].(float64)
	own, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", int(pid)))
	if err != nil {
		return err
	}
	want, err := os.Stat(filepath.Join(place.RunNetns, namespace))
	if err != nil {
		return err
	}
	if !os.SameFile(own, want) {
		return fmt.Errorf("process %d is not in %s", int(pid), namespace)
	}
	return nil
}

// TestTraceTellsRefusals: nobody listens, nobody accepts; the packet says so.
func TestTraceTellsRefusals(t *testing.T) {
	needFunctions(t)
	w := labUpFor(t)
	const closedPort, fullPort, rejectedPort = 6000, 6001, 6002
	target, client := namespace(t, w, "t1"), namespace(t, w, "px")
	listener := listenWithout(t, target, fullPort)
	defer unix.Close(listener)
	rejectTCP(t, target, rejectedPort)
	cases := []struct {
		name, network, host string
		port                uint16
		reason, answer      string
	}{
		{"IPv4", "tcp", "172.16.1.6", closedPort, "NO_SOCKET", "reset: no socket takes it"},
		{"IPv6", "tcp", "fd00::ac10:106", closedPort, "NO_SOCKET", "reset: no socket takes it"},
		{"IPv4 UDP", "udp", "172.16.1.6", closedPort, "NO_SOCKET", "icmp: port unreachable"},
		{"IPv6 UDP", "udp", "fd00::ac10:106", closedPort, "NO_SOCKET", "icmp: port unreachable"},
		{"IPv4 rule", "tcp", "172.16.1.6", rejectedPort, "NETFILTER_DROP", "reset: a rule rejects it"},
		{"IPv6 rule", "tcp", "fd00::ac10:106", rejectedPort, "NETFILTER_DROP", "reset: a rule rejects it"},
	}
	args := append([]string{"trace", "--hooks", "device,socket,drop,free", "-o", "json"}, netnsFlags(w)...)
	tr := start(t, append(args, fmt.Sprintf("dst portrange %d-%d", closedPort, rejectedPort))...)
	for _, c := range cases {
		dial(t, client, c.network, c.host, c.port)
	}
	// The first fills the queue of length 0, the second finds it full.
	for range 2 {
		dial(t, client, "tcp", "172.16.1.6", fullPort)
	}
	all := parseJourneys(t, tr.stop(t))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			j := find(all, func(j *journey) bool {
				return j.Packet.Proto == c.network && j.Packet.Dst == c.host && j.Packet.DPort == c.port
			})
			if j == nil || j.Drop == nil || j.Drop.Reason != c.reason || j.Drop.Because == "" {
				dump(t, all)
				t.Fatalf("no packet was dropped for %s", c.reason)
			}
			var got []string
			for _, d := range j.socketHops("reset") {
				got = append(got, fmt.Sprint("reset: ", d["why"]))
			}
			for _, d := range j.socketHops("icmp") {
				got = append(got, fmt.Sprint("icmp: ", d["name"]))
			}
			if !slices.Equal(got, []string{c.answer}) {
				t.Errorf("answered by %q, want %q", got, c.answer)
			}
		})
	}
	t.Run("nobody accepts", func(t *testing.T) {
		var outcomes []string
		for _, j := range all {
			if j.Packet.DPort != fullPort || j.Packet.Flags != "S" {
				continue
			}
			if len(outcomes) == 0 || j.Outcome != outcomes[len(outcomes)-1] { // retransmissions meet the same
				outcomes = append(outcomes, j.Outcome)
			}
			if j.Drop != nil && (j.Drop.Reason != "TCP_LISTEN_OVERFLOW" || !strings.Contains(j.Drop.Because, "1 wait, the limit is 0") ||
				!strings.Contains(j.Drop.Because, fmt.Sprintf("[%d]", os.Getpid()))) {
				t.Errorf("dropped for %s, because %s", j.Drop.Reason, j.Drop.Because)
			}
		}
		if !slices.Equal(outcomes, []string{"delivered", "dropped"}) {
			dump(t, all)
			t.Errorf("the SYNs were %v", outcomes)
		}
	})
}

func namespace(t *testing.T, w *scenarios.World, node string) place.Namespace {
	t.Helper()
	ns, err := place.Find(w.Namespace(node))
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// dial opens a connection from inside ns, says a word, and leaves it open until
// the test ends. That it fails is what tests are about.
func dial(t *testing.T, ns place.Namespace, network, host string, port uint16) {
	t.Helper()
	err := ns.Do(func() error {
		c, err := net.DialTimeout(network, net.JoinHostPort(host, fmt.Sprint(port)), 300*time.Millisecond)
		if err != nil {
			return nil
		}
		t.Cleanup(func() { c.Close() })
		_, err = c.Write([]byte("hello"))
		if network == "udp" && err == nil { // the error comes back before this returns
			_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			_, err = c.Read(make([]byte, 1))
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// rejectTCP makes a rule inside ns that answers what comes for the port with a
// reset.
func rejectTCP(t *testing.T, ns place.Namespace, port uint16) {
	t.Helper()
	err := ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "reject", Family: nftables.TableFamilyINet})
		chain := c.AddChain(&nftables.Chain{
			Name: "in", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, // destination port
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
		}})
		return c.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// listenWithout listens inside ns and accepts nothing; its queue has no room
// but for the one connection that the kernel always lets in.
func listenWithout(t *testing.T, ns place.Namespace, port int) (fd int) {
	t.Helper()
	err := ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
			return err
		}
		return unix.Listen(fd, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
