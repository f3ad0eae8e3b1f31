// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"math/bits"
	"testing"

	"waymark/bpf"
	. "waymark/decoder"
)

// The states of include/net/tcp_states.h that the tests need.
const (
	tcpEstablished = 1
	tcpTimeWait    = 6
	tcpClose       = 7
	tcpListen      = 10
)

const listenerInode, connectionInode = 4711, 4712

// socket is the target's, bound to the packet's destination.
func (p *packet) socket(state uint8, inode uint64) bpf.SocketExt {
	x := bpf.SocketExt{
		Lport: p.rec.Dport, Protocol: uint16(p.rec.Proto), State: state, Uid: 1000, Inode: inode,
		Rcvbuf: 212992, Af: 10, Laddr: p.rec.Dst,
	}
	if state != tcpListen && state != tcpClose {
		x.Raddr, x.Rport = p.rec.Src, p.rec.Sport
	}
	if p.rec.IpVersion == 4 { // as a socket of AF_INET has it
		x.Af = 2
		for _, a := range []*[16]uint8{&x.Laddr, &x.Raddr} {
			*a = [16]uint8{a[12], a[13], a[14], a[15]}
		}
	}
	if state == tcpListen {
		x.Laddr, x.MaxBacklog = [16]uint8{}, 128
	}
	return x
}

// take gives p to a socket of the target.
func (p *packet) take(x bpf.SocketExt) *packet {
	return p.told(bpf.HookSocketReceive, bpf.EncodeExt(x))
}

// told writes a record of the socket group at the target.
func (p *packet) told(hook bpf.Hook, ext []byte) *packet {
	p.ext = ext
	p.after(2*us).write(hook, nsT1, 0)
	p.ext = nil
	return p
}

func process(socket uint64, pid int, name string, others int) *Context {
	return &Context{Process: &Process{Socket: socket, PID: pid, Name: name, Others: others}}
}

const udp = 17

func socketScenes() []scene {
	request := func(s *stream, trail uint64, flags uint8) *packet {
		return s.tcp(trail, trail*1_000_000, client4, 40000, vip4, 5000, flags).request()
	}
	datagram := func(s *stream) *packet {
		p := s.packet(1, 0, client4, vip4, udp)
		p.rec.Sport, p.rec.Dport = bits.ReverseBytes16(40000), bits.ReverseBytes16(5000)
		return p.request()
	}
	return []scene{
		{
			// A listener of two processes, a connection that waits to be
			// accepted, then is, then is closed; another without a name.
			name: "socket", outcomes: []Outcome{Delivered, Delivered, Delivered, Delivered, Delivered, Delivered, Delivered},
			packets: func(s *stream) {
				s.contexts(process(listenerInode, 12, "nginx", 3))
				p := request(s, 1, syn)
				p.take(p.socket(tcpListen, listenerInode))
				p = request(s, 2, ack)
				x := p.socket(tcpListen, listenerInode)
				x.AckBacklog = 2
				p.take(x)
				p = request(s, 3, ack)
				x = p.socket(tcpEstablished, 0)
				p.take(x).take(x) // it waited before
				p = request(s, 4, ack)
				x = p.socket(tcpEstablished, connectionInode)
				x.Rmem = 200_000
				p.take(x)
				s.contexts(process(connectionInode, 13, "nginx", 0))
				p = request(s, 5, ack)
				x = p.socket(tcpEstablished, 0)
				x.Flags = bpf.SocketDead
				p.take(x)
				request(s, 6, ack).take(p.socket(tcpTimeWait, 0))
				p = s.tcp(7, 7_000_000, client6, 40000, vip6, 5001, ack).request()
				p.take(p.socket(tcpEstablished, 99))
			},
		},
		{
			name: "socket-udp", outcomes: []Outcome{Delivered},
			packets: func(s *stream) {
				s.contexts(process(connectionInode, 13, "coredns", 0))
				p := datagram(s)
				p.take(p.socket(tcpClose, connectionInode))
			},
		},
		{
			// Not an address of the namespace: a transparent proxy.
			name: "socket-elsewhere", outcomes: []Outcome{Delivered},
			world: func(w *trench) { w.devices[7] = device(nsT1, nscT1, "nsc", 0, "172.16.1.6/24") },
			packets: func(s *stream) {
				p := request(s, 1, ack)
				p.take(p.socket(tcpEstablished, 99))
			},
		},
		{
			name: "no-socket-reset", outcomes: []Outcome{Dropped}, reason: "NO_SOCKET", netns: "wm-meridio-t1",
			packets: func(s *stream) {
				request(s, 1, syn).told(bpf.HookSocketReset, bpf.EncodeExt(bpf.SocketExt{Flags: bpf.SocketNone})).drop(nsT1, nscT1, us, rNoSocket, atTCPRcv)
			},
		},
		{
			name: "no-socket-icmp", outcomes: []Outcome{Dropped}, reason: "NO_SOCKET", netns: "wm-meridio-t1",
			packets: func(s *stream) {
				datagram(s).told(bpf.HookSocketICMP, bpf.EncodeExt(bpf.ICMPExt{Type: 3, Code: 3})).drop(nsT1, nscT1, us, rNoSocket, atTCPRcv)
			},
		},
		{
			// 6.1 gives no reason for what follows a reset.
			name: "late-ack", outcomes: []Outcome{Dropped, Dropped, Delivered}, reason: "NOT_SPECIFIED", netns: "wm-meridio-t1",
			packets: func(s *stream) {
				p := request(s, 1, ack)
				x := p.socket(tcpListen, listenerInode)
				p.take(x).told(bpf.HookSocketReset, bpf.EncodeExt(x)).drop(nsT1, nscT1, us, rNotSpecified, atTCPRcv)
				p = request(s, 2, ack)
				x = p.socket(tcpClose, 0)
				x.Flags = bpf.SocketDead
				p.take(x).told(bpf.HookSocketReset, bpf.EncodeExt(x)).drop(nsT1, nscT1, us, rNotSpecified, atTCPRcv)
				// A reset is never answered with one.
				request(s, 3, 4).told(bpf.HookSocketReset, bpf.EncodeExt(bpf.SocketExt{Flags: bpf.SocketNone}))
			},
		},
		{
			// The SYN is freed as if used, the ACK without a reason.
			name: "accept-queue-full", outcomes: []Outcome{Dropped, Dropped}, reason: "TCP_LISTEN_OVERFLOW", netns: "wm-meridio-t1",
			packets: func(s *stream) {
				s.contexts(process(listenerInode, 12, "nginx", 0))
				p := request(s, 1, syn)
				x := p.socket(tcpListen, listenerInode)
				x.AckBacklog = 129
				p.take(x).consumed(us, atConsume)
				request(s, 2, ack).take(x).drop(nsT1, nscT1, us, rNotSpecified, atTCPRcv)
			},
		},
		{
			name: "receive-buffer-full", outcomes: []Outcome{Dropped}, reason: "SOCKET_RCVBUFF", netns: "wm-meridio-t1",
			packets: func(s *stream) {
				p := datagram(s)
				x := p.socket(tcpClose, 99)
				x.Rmem = 213000
				p.take(x).drop(nsT1, nscT1, us, rRcvBuff, atUDPQueue)
			},
		},
		{
			name: "rejected", outcomes: []Outcome{Dropped, Dropped}, netns: "wm-meridio-t1",
			packets: func(s *stream) {
				request(s, 1, syn).told(bpf.HookSocketReject, nil).drop(nsT1, nscT1, us, rNetfilter, atHook)
				p := s.tcp(2, 2_000_000, client6, 40000, vip6, 5000, syn).request()
				p.told(bpf.HookSocketICMP, bpf.EncodeExt(bpf.ICMPExt{Type: 1, Code: 1})).drop(nsT1, nscT1, us, rNetfilter, atHook)
			},
		},
		{
			// Both families tell the MTU, each in its byte order.
			name: "too-big", outcomes: []Outcome{Forwarded, Forwarded},
			packets: func(s *stream) {
				p := s.tcp(1, 0, client4, 40000, vip4, 5000, ack).requestToLB().balanced()
				p.told(bpf.HookSocketICMP, bpf.EncodeExt(bpf.ICMPExt{Type: 3, Code: 4, Info: bits.ReverseBytes32(1400)}))
				p = s.tcp(2, 2_000_000, client6, 40000, vip6, 5000, ack).requestToLB().balanced()
				p.told(bpf.HookSocketICMP, bpf.EncodeExt(bpf.ICMPExt{Type: 2, Info: 1280}))
			},
		},
		{
			// What a damaged recording may hold: no hop, no harm.
			name: "socket-damaged", outcomes: []Outcome{Delivered},
			packets: func(s *stream) {
				p := request(s, 1, ack)
				for _, h := range []bpf.Hook{bpf.HookSocketReceive, bpf.HookSocketReset, bpf.HookSocketICMP} {
					p.told(h, []byte{1, 2, 3})
				}
				x := p.socket(200, 7)
				x.Protocol, x.Af = 6, 99
				p.take(x)
			},
		},
	}
}

// TestOwnersAreBounded: of very many sockets the reader forgets, but not those
// that the writer tells of again.
func TestOwnersAreBounded(t *testing.T) {
	s := newStream(t, newTrench())
	for i := range uint64(20 * OwnersRetold) {
		if i%OwnersRetold == 0 {
			s.contexts(process(listenerInode, 12, "nginx", 0))
		}
		s.contexts(process(1_000_000+i, 100, "client", 0))
	}
	p := s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
	p.take(p.socket(tcpListen, listenerInode))
	p = s.tcp(2, 1_000_000, client4, 40001, vip4, 5002, syn).request()
	p.take(p.socket(tcpEstablished, 1_000_000))
	js := s.run(Options{})
	for i, want := range []string{"nginx", ""} {
		d, ok := js[i].Hops[len(js[i].Hops)-1].Detail.(*SocketDetail)
		if !ok || d.Process != want {
			t.Errorf("packet %d: socket of %+v, want process %q", i+1, d, want)
		}
	}
}

// TestSocketsAreRecorded: a replay names the same processes, and Wireshark shows
// the socket beside the packet.
func TestSocketsAreRecorded(t *testing.T) {
	for _, sc := range socketScenes() {
		w := newTrench()
		if sc.world != nil {
			sc.world(w)
		}
		s := newStream(t, w)
		sc.packets(s)
		var file bytes.Buffer
		r := NewRecorder(&file, RecorderOptions{})
		s.feed(r)
		must(t, r.Close())
		if sc.name == "socket" && !bytes.Contains(file.Bytes(), []byte("socket: tcp 0.0.0.0:5000 LISTEN")) {
			t.Error("the recording does not say which socket took the packet")
		}
		var js []*Journey
		st := NewStitcher(Options{Emit: func(j *Journey) { js = append(js, j) }, LB: trenchLB{}})
		if _, err := Replay(bytes.NewReader(file.Bytes()), st); err != nil {
			t.Fatal(err)
		}
		st.Flush()
		if got, want := printed(t, js), printed(t, s.run(Options{})); got != want {
			t.Errorf("%s: replay prints\n%s\nlive printed\n%s", sc.name, got, want)
		}
	}
}
