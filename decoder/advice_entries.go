// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// shortTimeout is, in seconds, less than clients are commonly idle. The kernel's
// default, and Ravel's, is 900.
const shortTimeout = 300

// rescheduleFIN is the bit of conn_reuse_mode by which a new connection ends an entry
// in state fin_wait (Documentation/networking/ipvs-sysctl.rst).
const rescheduleFIN = 2

// entryIn is the connection of the packet among those of v that go where new ones do
// not; nil: it is not told.
func (f *dropFacts) entryIn(v *view) *IPVSEntry {
	if v == nil || v.entries == nil {
		return nil
	}
	proto := protoName(f.rec.Proto)
	client, service := netip.AddrPortFrom(f.src, f.rec.SrcPort()), netip.AddrPortFrom(f.dst, f.rec.DstPort())
	for i := range v.entries.Entries {
		if e := &v.entries.Entries[i]; e.Client == client && e.Service == service && e.Proto == proto {
			return e
		}
	}
	return nil
}

// weightNow is that of the entry's destination in the packet's service; -1: that has
// no such destination.
func (f *dropFacts) weightNow(v *view, e *IPVSEntry) int {
	if v.ipvs == nil {
		return -1
	}
	s := f.service(v.ipvs)
	if s == nil {
		return -1
	}
	i := slices.IndexFunc(s.Destinations, func(d IPVSDestination) bool { return d.Addr == e.Destination })
	if i < 0 {
		return -1
	}
	return s.Destinations[i].Weight
}

// goneEntry is the connection of the packet in the drop's namespace, if that sends it
// to a destination that is gone (ip_vs_in_hook: IP_VS_DEST_F_AVAILABLE).
func (f *dropFacts) goneEntry() *IPVSEntry {
	v := f.b.w.views[f.netns]
	if e := f.entryIn(v); e != nil && e.Gone && f.weightNow(v, e) < 0 {
		return e
	}
	return nil
}

func destinationGone(f *dropFacts) bool {
	expires, _ := f.sysctl("net.ipv4.vs.expire_nodest_conn")
	return expires == "0" && f.goneEntry() != nil
}

// forgotten: of a connection that the director may have known, but not for long.
func forgotten(f *dropFacts) bool {
	t := f.ipvs().Timeouts
	return t != nil && t.TCP < shortTimeout && unknownToDirector(f)
}

// oldEntry is a director that sends the packet, which opens a connection, to the
// drop's namespace by the entry of another one, and that entry.
func (f *dropFacts) oldEntry() (*view, *IPVSEntry) {
	if f.rec.Proto != protoTCP || f.rec.TcpFlags&(flagSYN|flagACK) != flagSYN {
		return nil, nil
	}
	for _, d := range f.directors() {
		if e := f.entryIn(d); e != nil && f.weightNow(d, e) == 0 && f.isHere(e.Destination.Addr()) && reuseMode(d)&rescheduleFIN == 0 {
			return d, e
		}
	}
	return nil, nil
}

// reuseMode is a director's; that it has all bits: it is not known.
func reuseMode(v *view) int {
	if v.sysctls != nil {
		if mode, err := strconv.Atoi(v.sysctls.Values["net.ipv4.vs.conn_reuse_mode"]); err == nil {
			return mode
		}
	}
	return ^0
}

func portReused(f *dropFacts) bool {
	_, e := f.oldEntry()
	return e != nil
}

// taker is the namespace of the director that took the packet up in the middle of a
// connection; empty: none was seen to.
func (f *dropFacts) taker() string {
	if f.rec.Proto != protoTCP || f.rec.TcpFlags&(flagSYN|flagRST) != 0 {
		return ""
	}
	for _, h := range f.b.j.Hops {
		if d, ok := h.Detail.(*IPVSDetail); ok && d.New {
			return h.Netns
		}
	}
	return ""
}

func takenUp(f *dropFacts) bool { return f.taker() != "" }

// entryTexts are the facts that advice about connections names.
var entryTexts = map[string]func(*dropFacts) string{
	"entry": func(f *dropFacts) string {
		e := f.goneEntry()
		return fmt.Sprintf("%s (%s)", e.Destination, e.State)
	},
	"taker":      (*dropFacts).taker,
	"tcpTimeout": func(f *dropFacts) string { return strconv.Itoa(f.ipvs().Timeouts.TCP) },
	"reuser": func(f *dropFacts) string {
		v, _ := f.oldEntry()
		name, _ := f.b.w.netns(v.inode)
		return name
	},
	"oldEntry": func(f *dropFacts) string {
		_, e := f.oldEntry() // this packet may have changed the state, from fin_wait to syn_recv
		return fmt.Sprintf("%s (its state by now: %s)", e.Destination, e.State)
	},
	"reuseMode": func(f *dropFacts) string {
		v, _ := f.oldEntry()
		return strconv.Itoa(reuseMode(v))
	},
}
