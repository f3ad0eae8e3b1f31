// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"waymark/scenarios"
	"waymark/tracer/place"
)

// TestNormalIsNoDrop: what the kernel throws away in normal use is no drop:
// copies for raw sockets and of flooded frames, and what a socket still holds
// when it is closed.
func TestNormalIsNoDrop(t *testing.T) {
	w := labUpWith(t, scenarios.Options{Lab: "cbr0"})
	p1, p2 := namespace(t, w, "p1"), namespace(t, w, "p2")
	sendCase(t, w, journeyCase{traffic: scenarios.Traffic{To: "pod"}}) // the neighbours know each other
	tr := start(t, append([]string{"drops", "-o", "json"}, netnsFlags(w)...)...)

	closeRaw := openRaw(t, p2)
	if _, err := w.Ping(ctxBackground, netip.MustParseAddr("10.4.0.12"), 7); err != nil {
		t.Error(err)
	}
	closeRaw()
	closeUnread(t, p1, p2)
	flood(t, p1)
	// What came last is what shows that the rest was seen.
	sendRefused(t, p1)

	out := string(tr.stop(t))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for _, line := range lines {
		if strings.Contains(line, `"type":"drop"`) && !strings.Contains(line, `"dport":6999`) {
			t.Errorf("told as a drop: %s", line)
		}
	}
	if !strings.Contains(out, `"dport":6999`) {
		t.Errorf("the datagram that nobody takes is not there: %s", out)
	}
}

// openRaw opens sockets that get copies of what comes to ns.
func openRaw(t *testing.T, ns place.Namespace) (closeAll func()) {
	t.Helper()
	var raw net.PacketConn
	var packet int
	err := ns.Do(func() (err error) {
		if raw, err = net.ListenPacket("ip4:icmp", "0.0.0.0"); err != nil {
			return err
		}
		packet, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() { raw.Close(); unix.Close(packet) }
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// closeUnread closes sockets of server that hold what client sent.
func closeUnread(t *testing.T, client, server place.Namespace) {
	t.Helper()
	const at = "10.4.0.12:6998"
	inside := func(ns place.Namespace, f func() error) {
		t.Helper()
		if err := ns.Do(f); err != nil {
			t.Fatal(err)
		}
	}
	var udp net.PacketConn
	var tcp net.Listener
	var in, out net.Conn
	inside(server, func() (err error) {
		if udp, err = net.ListenPacket("udp", at); err == nil {
			tcp, err = net.Listen("tcp", at)
		}
		return err
	})
	inside(client, func() (err error) {
		if out, err = net.Dial("tcp", at); err != nil {
			return err
		}
		if _, err = out.Write([]byte("nobody reads this")); err != nil {
			return err
		}
		c, err := net.Dial("udp", at)
		if err != nil {
			return err
		}
		defer c.Close()
		for range 3 {
			if _, err = c.Write([]byte("nor this")); err != nil {
				return err
			}
		}
		return nil
	})
	in, err := tcp.Accept()
	if err != nil {
		t.Fatal(err)
	}
	// A byte of each has come: so has the rest, or it is on its way behind.
	one := make([]byte, 1)
	if _, err := in.Read(one); err != nil {
		t.Fatal(err)
	}
	if _, _, err := udp.ReadFrom(one); err != nil {
		t.Fatal(err)
	}
	in.Close() // with data unread: a reset
	udp.Close()
	tcp.Close()
	_ = out.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := out.Read(one); err == nil || os.IsTimeout(err) {
		t.Errorf("the connection was not reset: %v", err)
	}
	out.Close()
}

// flood sends a frame to a hardware address that no port of the bridge has.
func flood(t *testing.T, from place.Namespace) {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{10, 4, 0, 11}, DstIP: net.IP{10, 4, 0, 99}}
	udp := &layers.UDP{SrcPort: 6997, DstPort: 6997}
	_ = udp.SetNetworkLayerForChecksum(ip)
	err := from.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&layers.Ethernet{SrcMAC: eth0.HardwareAddr, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 99}, EthernetType: layers.EthernetTypeIPv4},
			ip, udp, gopacket.Payload("for nobody")); err != nil {
			return err
		}
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return unix.Sendto(s, buf.Bytes(), 0, &unix.SockaddrLinklayer{Ifindex: eth0.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sendRefused sends a datagram to a port of p2 that no socket has, and waits for
// the refusal.
func sendRefused(t *testing.T, from place.Namespace) {
	t.Helper()
	err := from.Do(func() error {
		c, err := net.Dial("udp", "10.4.0.12:6999")
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); os.IsTimeout(err) {
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
