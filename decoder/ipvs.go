// SPDX-License-Identifier: Apache-2.0

// The hops of a packet through an IPVS director.

package decoder

import (
	"bytes"
	"fmt"
	"math/bits"
	"net/netip"

	"waymark/bpf"
)

// IPVSDetail tells of an IPVS connection (ipvs/forward, ipvs/reply).
type IPVSDetail struct {
	Service     string `json:"service"`             // PROTO ADDR:PORT
	FwMark      uint32 `json:"fwmark,omitempty"`    // of a service that is one
	Scheduler   string `json:"scheduler,omitempty"` // rr, mh, ...
	Destination string `json:"destination"`         // ADDR:PORT
	Weight      *int   `json:"weight,omitempty"`    // of the destination; omitted if that is gone
	Method      string `json:"method"`              // masq, local, tunnel, direct, bypass
	Client      string `json:"client"`              // ADDR:PORT
	New         bool   `json:"new,omitempty"`       // the scheduler chose for this packet
	State       string `json:"state,omitempty"`     // of the connection before this packet
}

func (*IPVSDetail) detail() {}

// ipvsMethods are the values of IP_VS_CONN_F_FWD_MASK (include/uapi/linux/ip_vs.h).
var ipvsMethods = []string{"masq", "local", "tunnel", "direct", "bypass"}

// ipvsTCPStates are IP_VS_TCP_S_NONE and on (include/net/ip_vs.h).
var ipvsTCPStates = []string{
	"none", "established", "syn_sent", "syn_recv", "fin_wait", "time_wait", "close", "close_wait", "last_ack", "listen", "synack",
}

func ipvsDetail(x *bpf.IPVSExt) *IPVSDetail {
	d := &IPVSDetail{
		Service:     protoName(uint8(x.Protocol)) + " " + ipvsEnd(x.Vaddr, x.Vport, x.Af),
		FwMark:      x.Fwmark,
		Destination: ipvsEnd(x.Daddr, x.Dport, x.Daf),
		Client:      ipvsEnd(x.Caddr, x.Cport, x.Af),
		Method:      nameAt(ipvsMethods, int(x.Method)),
		New:         x.Flags&bpf.IPVSNew != 0,
	}
	if x.Flags&bpf.IPVSDest != 0 {
		name, _, _ := bytes.Cut(x.Scheduler[:], []byte{0})
		weight := int(x.Weight)
		d.Scheduler, d.Weight = string(name), &weight
	}
	if x.Protocol == protoTCP && !d.New {
		d.State = nameAt(ipvsTCPStates, int(x.State))
	}
	return d
}

// ipvsEnd is an address and a port as struct ip_vs_conn has them.
func ipvsEnd(addr [16]uint8, port uint16, af uint8) string {
	return endpoint(ipvsAddr(addr, af), bits.ReverseBytes16(port))
}

func ipvsAddr(addr [16]uint8, af uint8) netip.Addr {
	const afINET = 2
	if af == afINET {
		return netip.AddrFrom4([4]byte(addr[:4]))
	}
	return netip.AddrFrom16(addr)
}

func ipvsHook(r *bpf.Record) string {
	if bpf.Hook(r.Hook) == bpf.HookIPVSReply {
		return "reply"
	}
	return "forward"
}

// directed is the hop of a packet that a director sends on.
func (b *builder) directed(br *branch, e *event) {
	x, err := bpf.DecodeExt[bpf.IPVSExt](b.o.ext(e))
	if err != nil {
		return // of a recording that is damaged there
	}
	h := b.hop(br, e, GroupIPVS, ipvsHook(&e.rec))
	h.Detail = ipvsDetail(&x)
	// As for packets of the host's own: __ip_vs_get_out_rt, and for replies
	// ip_route_me_harder with the address they have by then.
	br.ipvs = &RouteQuery{Dst: ipvsAddr(x.Daddr, x.Daf), IIF: "lo"}
	if h.Hook == "reply" {
		br.ipvs = &RouteQuery{Src: ipvsAddr(x.Vaddr, x.Af), Dst: ipvsAddr(x.Caddr, x.Af), IIF: "lo"}
	}
	b.j.Hops = append(b.j.Hops, h)
	br.routed = 0 // it routes by itself
}

func (d *IPVSDetail) text(hook string) string {
	if hook == "reply" {
		return "ipvs: reply of " + d.Service + " from " + d.Destination
	}
	s := "ipvs: " + d.Service
	if d.Scheduler != "" {
		s += " (" + d.Scheduler + ")"
	}
	s += " → " + d.Destination + " by " + d.Method
	if d.Weight != nil {
		s += fmt.Sprintf(", weight %d", *d.Weight)
	}
	switch {
	case d.New:
		s += ", new connection"
	case d.State != "":
		s += ", known connection, " + d.State
	default:
		s += ", known connection"
	}
	return s
}
