// SPDX-License-Identifier: Apache-2.0

// The hops of a packet that a socket is given, or that is refused with an answer.

package decoder

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"

	"waymark/bpf"
)

// SocketDetail tells of a socket (socket/receive).
type SocketDetail struct {
	Proto        string  `json:"proto"`                   // tcp, udp, icmp, ...
	Raw          bool    `json:"raw,omitempty"`           // it gets a copy of each packet of that protocol
	Local        string  `json:"local"`                   // ADDR:PORT; without port if it is raw or for ICMP
	ID           *uint16 `json:"id,omitempty"`            // of a ping socket: the identifier of its echoes
	Remote       string  `json:"remote,omitempty"`        // ADDR:PORT, if it is connected
	State        string  `json:"state,omitempty"`         // of TCP: LISTEN, ESTABLISHED, ...
	Process      string  `json:"process,omitempty"`       // command of a process that has it open
	PID          int     `json:"pid,omitempty"`           //
	SharedBy     int     `json:"shared_by,omitempty"`     // how many other processes have it open too
	Listener     bool    `json:"listener,omitempty"`      // process is the one that listens on the port: who has this socket is not known
	UID          *uint32 `json:"uid,omitempty"`           // of who made it; not of TIME_WAIT
	Inode        uint64  `json:"inode,omitempty"`         // as in /proc/PID/fd
	AcceptQueue  *uint32 `json:"accept_queue,omitempty"`  // of LISTEN: connections that wait to be accepted
	AcceptLimit  uint32  `json:"accept_limit,omitempty"`  // and how many may; the kernel lets one more in
	ReceiveQueue *uint32 `json:"receive_queue,omitempty"` // memory of what waits to be read, in bytes
	ReceiveLimit uint32  `json:"receive_limit,omitempty"` // and how much may
	Closed       bool    `json:"closed,omitempty"`        // by its process
}

// AnswerDetail tells what a packet is refused with (socket/reset, socket/icmp).
type AnswerDetail struct {
	By   string `json:"by"`             // tcp, netfilter, kernel
	Why  string `json:"why,omitempty"`  // of a reset
	Name string `json:"name,omitempty"` // of the ICMP error: port unreachable, ...
	Type *uint8 `json:"type,omitempty"` //
	Code *uint8 `json:"code,omitempty"` //
	MTU  uint32 `json:"mtu,omitempty"`  // that the error tells
	sock string // state of the socket that refused
}

func (*SocketDetail) detail() {}
func (*AnswerDetail) detail() {}

// tcpStates are TCP_ESTABLISHED, which is 1, and on (include/net/tcp_states.h).
var tcpStates = []string{
	"0", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN",
	"CLOSING", "SYN_RECV",
}

const sockRaw = 3 // SOCK_RAW (include/linux/net.h)

const (
	stateTimeWait = "TIME_WAIT"
	stateListen   = "LISTEN"
)

// socketAddr is an address as struct socket_ext has it.
func socketAddr(a [16]uint8, af uint8) netip.Addr {
	const afINET = 2
	if af == afINET {
		return netip.AddrFrom4([4]byte(a[:4]))
	}
	return netip.AddrFrom16(a).Unmap()
}

// socketDetail is what the record alone tells of its socket.
func socketDetail(x *bpf.SocketExt) *SocketDetail {
	d := &SocketDetail{
		Proto: protoName(uint8(x.Protocol)), Raw: x.Type == sockRaw,
		Inode: x.Inode, Closed: x.Flags&bpf.SocketDead != 0,
	}
	local, lport := socketAddr(x.Laddr, x.Af), bits.ReverseBytes16(x.Lport)
	switch {
	case d.Raw:
		d.Local = local.String()
	case x.Protocol == protoICMP || x.Protocol == protoICMPv6:
		d.Local, d.ID = local.String(), &lport
	default:
		d.Local = endpoint(local, lport)
	}
	if x.Rport != 0 && !d.Raw {
		d.Remote = endpoint(socketAddr(x.Raddr, x.Af), bits.ReverseBytes16(x.Rport))
	}
	if x.Protocol == protoTCP && !d.Raw {
		d.State = nameAt(tcpStates, int(x.State))
	}
	switch d.State {
	case stateTimeWait:
		return d // of which the kernel keeps no more
	case stateListen:
		d.AcceptQueue, d.AcceptLimit = &x.AckBacklog, x.MaxBacklog
	default:
		d.ReceiveQueue, d.ReceiveLimit = &x.Rmem, x.Rcvbuf
	}
	d.UID = &x.Uid
	return d
}

// full tells a listener that takes no more connections (sk_acceptq_is_full,
// include/net/sock.h).
func (d *SocketDetail) full() bool { return d.AcceptQueue != nil && *d.AcceptQueue > d.AcceptLimit }

// received is the hop of a packet that a socket is given. That a listener's
// queue is full is told here: of a SYN the kernel says no more, it is freed
// as if it had been used.
func (b *builder) received(br *branch, e *event) {
	x, err := bpf.DecodeExt[bpf.SocketExt](b.o.ext(e))
	if err != nil {
		return // of a recording that is damaged there
	}
	d := socketDetail(&x)
	if was := br.socket; was != nil && was.Local == d.Local && was.Remote == d.Remote && was.State == d.State {
		return // it waited while the process was busy with the socket
	}
	if p, own := b.w.owner(&x, e.rec.Netns); p != nil && d.State != stateTimeWait {
		d.Process, d.PID, d.SharedBy, d.Listener = p.Name, p.PID, p.Others, !own
	}
	h := b.hop(br, e, GroupSocket, "receive")
	h.Detail, br.socket, br.socketT, br.socketAt = d, d, h.TNs, e.rec.Netns
	if d.full() && e.rec.TcpFlags&(flagSYN|flagACK|flagRST) == flagSYN {
		h.Verdict = "drop"
		drop := Drop{Time: b.s.wall(e.rec.TimeNs), Netns: h.Netns, Pod: h.Pod, Reason: acceptQueueFull, At: "tcp_conn_request"}
		explainDrop(b.facts(br, e, &drop), &drop)
		br.drop = &drop
	}
	b.j.Hops = append(b.j.Hops, h)
}

// acceptQueueFull is what newer kernels call it.
const acceptQueueFull = "TCP_LISTEN_OVERFLOW"

// TCP's flags (RFC 9293).
const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// refused is the hop of a packet that is answered with a reset or an ICMP error.
func (b *builder) refused(br *branch, e *event) {
	d := answerDetail(&e.rec, b.o.ext(e))
	if d == nil {
		return
	}
	hook := "reset"
	if bpf.Hook(e.rec.Hook) == bpf.HookSocketICMP {
		hook = "icmp"
	}
	h := b.hop(br, e, GroupSocket, hook)
	h.Detail, br.answer = d, d
	b.j.Hops = append(b.j.Hops, h)
}

// answerDetail is the answer that a record tells of; nil: there is none, or it
// is damaged.
func answerDetail(r *bpf.Record, ext []byte) *AnswerDetail {
	switch bpf.Hook(r.Hook) {
	case bpf.HookSocketReject:
		return &AnswerDetail{By: "netfilter", Why: "a rule rejects it"}
	case bpf.HookSocketICMP:
		x, err := bpf.DecodeExt[bpf.ICMPExt](ext)
		if err != nil {
			return nil
		}
		return icmpAnswer(r.IpVersion, &x)
	}
	x, err := bpf.DecodeExt[bpf.SocketExt](ext)
	if err != nil || r.TcpFlags&flagRST != 0 { // a reset is not answered (RFC 9293, 3.5.2)
		return nil
	}
	if x.Flags&bpf.SocketNone != 0 {
		return &AnswerDetail{By: "tcp", Why: "no socket takes it"}
	}
	d := &AnswerDetail{By: "tcp", sock: nameAt(tcpStates, int(x.State))}
	switch d.sock {
	case stateListen:
		d.Why = "the listening socket has no such connection"
	case stateTimeWait:
		d.Why = "the connection is over"
	default:
		d.Why = "it does not fit the connection, which is in " + d.sock
		if x.Flags&bpf.SocketDead != 0 {
			d.Why += " and closed by its process"
		}
	}
	return d
}

func icmpAnswer(version uint8, x *bpf.ICMPExt) *AnswerDetail {
	typ, code := x.Type, x.Code
	d := &AnswerDetail{By: "kernel", Type: &typ, Code: &code}
	proto, mtu := "icmp", bits.ReverseBytes32(x.Info)
	if version == 6 {
		proto, mtu = "icmp6", x.Info
	}
	for _, k := range []icmpErrorKey{{proto, typ, int(code)}, {proto, typ, anyCode}} {
		d.Name = cmp.Or(d.Name, icmpErrorNames[k])
	}
	if d.Name == "" {
		d.Name = fmt.Sprintf("type %d code %d", typ, code)
	}
	if proto == "icmp" && typ == 3 && code == 4 || proto == "icmp6" && typ == 2 {
		d.MTU = mtu
	}
	return d
}

type icmpErrorKey struct {
	proto string
	typ   uint8
	code  int
}

const anyCode = -1

// icmpErrorNames are the errors that routers and hosts send (RFC 792, RFC 1812,
// RFC 4443).
var icmpErrorNames = map[icmpErrorKey]string{
	{"icmp", 3, 0}: "network unreachable", {"icmp", 3, 1}: "host unreachable", {"icmp", 3, 2}: "protocol unreachable",
	{"icmp", 3, 3}: "port unreachable", {"icmp", 3, 4}: "fragmentation needed", {"icmp", 3, 5}: "source route failed",
	{"icmp", 3, 9}: "network prohibited", {"icmp", 3, 10}: "host prohibited", {"icmp", 3, 13}: "communication prohibited",
	{"icmp", 5, anyCode}: "redirect", {"icmp", 11, 0}: "time to live exceeded", {"icmp", 11, 1}: "reassembly time exceeded",
	{"icmp", 12, anyCode}: "parameter problem",
	{"icmp6", 1, 0}:       "no route", {"icmp6", 1, 1}: "prohibited", {"icmp6", 1, 2}: "beyond scope of source",
	{"icmp6", 1, 3}: "address unreachable", {"icmp6", 1, 4}: "port unreachable", {"icmp6", 1, 5}: "source address failed policy",
	{"icmp6", 1, 6}: "rejected route", {"icmp6", 2, anyCode}: "packet too big", {"icmp6", 3, 0}: "hop limit exceeded",
	{"icmp6", 3, 1}: "reassembly time exceeded", {"icmp6", 4, anyCode}: "parameter problem",
}

func (d *SocketDetail) text() string {
	s := "socket: " + d.Proto + " " + d.Local
	if d.Raw {
		s = "raw " + s
	}
	if d.ID != nil {
		s += fmt.Sprintf(" id %d", *d.ID)
	}
	if d.State != "" {
		s += " " + d.State
	}
	process := fmt.Sprintf("%s[%d]", d.Process, d.PID)
	if d.SharedBy > 0 {
		process += fmt.Sprintf(" and %d more", d.SharedBy)
	}
	switch {
	case d.Closed:
		s += ", closed by its process"
	case d.Process != "" && d.Inode == 0 && d.Listener:
		s += ", not yet accepted by " + process
	case d.Process != "" && d.Listener:
		s += ", " + process + " listens"
	case d.Process != "":
		s += ", " + process
	case d.UID != nil:
		s += fmt.Sprintf(", uid %d", *d.UID)
	}
	if d.AcceptQueue != nil {
		s += fmt.Sprintf(", accept queue %d of %d", *d.AcceptQueue, d.AcceptLimit)
		if d.full() {
			s += ": full"
		}
	}
	// Less than half is the usual case, and no news.
	if d.ReceiveQueue != nil && *d.ReceiveQueue > d.ReceiveLimit/2 {
		s += fmt.Sprintf(", receive buffer %d of %d bytes", *d.ReceiveQueue, d.ReceiveLimit)
	}
	return s
}

func (d *AnswerDetail) text() string {
	switch {
	case d.Type == nil:
		return "answered by a reset: " + d.Why
	case d.MTU != 0:
		return fmt.Sprintf("answered by ICMP: %s, MTU %d", d.Name, d.MTU)
	}
	return "answered by ICMP: " + d.Name
}
