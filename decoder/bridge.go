// SPDX-License-Identifier: Apache-2.0

// The hops of a frame through a bridge.

package decoder

import (
	"strings"

	"waymark/bpf"
)

// BridgeDetail tells how a frame passes a bridge (bridge/forward, bridge/flood,
// bridge/up). The hop's device is the port it came in by, or the bridge. Where
// the kernel's decision was not seen, bridge/forward has the bridge alone.
type BridgeDetail struct {
	Bridge    string   `json:"bridge"`
	Out       string   `json:"out,omitempty"`       // port of the frame's address (forward)
	Ports     []string `json:"ports,omitempty"`     // that copies left by (flood)
	Netfilter bool     `json:"netfilter,omitempty"` // br_netfilter showed it to the rules for IP
	Blocked   string   `json:"blocked,omitempty"`   // why that port does not send it
}

func (*BridgeDetail) detail() {}

// Values of net/bridge: BR_HAIRPIN_MODE (include/linux/if_bridge.h), and
// BR_STATE_* (include/uapi/linux/if_bridge.h).
const (
	bridgeHairpin    = 1
	bridgeForwarding = 3
)

const blockedHairpin = "hairpin mode is off"

var bridgeStates = []string{"disabled", "listening", "learning", "forwarding", "blocking"}

func bridgeHook(r *bpf.Record, x *bpf.BridgeExt) string {
	switch {
	case bpf.Hook(r.Hook) == bpf.HookBridgeFlood:
		return "flood"
	case x.Out == x.Bridge:
		return "up"
	}
	return "forward"
}

// bridgeBlocks says why should_deliver (net/bridge/br_forward.c) refuses;
// VLANs and isolated ports are not looked at.
func bridgeBlocks(r *bpf.Record, x *bpf.BridgeExt) string {
	switch {
	case x.PortState != bridgeForwarding:
		return "the port is " + nameAt(bridgeStates, int(x.PortState))
	case x.Out == r.Ifindex && x.PortFlags&bridgeHairpin == 0:
		return blockedHairpin
	}
	return ""
}

// onBridge is the hop of a bridge's decision.
func (b *builder) onBridge(br *branch, e *event) {
	x, err := bpf.DecodeExt[bpf.BridgeExt](b.o.ext(e))
	if err != nil {
		return // of a recording that is damaged there
	}
	h := b.hop(br, e, GroupBridge, bridgeHook(&e.rec, &x))
	h.Dev = b.w.deviceName(e.view, e.rec.Netns, e.rec.Ifindex)
	d := &BridgeDetail{Bridge: b.w.deviceName(e.view, e.rec.Netns, x.Bridge), Netfilter: x.Flags&bpf.BridgeNetfilter != 0}
	switch h.Hook {
	case "forward":
		d.Out, d.Blocked = b.w.deviceName(e.view, e.rec.Netns, x.Out), bridgeBlocks(&e.rec, &x)
		br.blocked = d.Blocked
	case "flood":
		br.flood = d
	}
	if h.Hook != "flood" {
		br.flood = nil
	}
	br.switched = h.Hook != "up" && e.rec.Ifindex != x.Bridge
	h.Detail = d
	b.j.Hops = append(b.j.Hops, h)
}

// flooded notes the port that a copy leaves by.
func (br *branch) flooded(dev string) {
	if br.flood != nil {
		br.flood.Ports = append(br.flood.Ports, dev)
	}
}

// inferBridge is the hop of a frame that went from port to port unseen.
func (b *builder) inferBridge(br *branch, prev, e *event) {
	h := b.hop(br, e, GroupBridge, "forward")
	h.Detail = &BridgeDetail{Bridge: b.master(prev)}
	b.j.Hops = append(b.j.Hops, h)
}

func (d *BridgeDetail) text(hook string) string {
	s := "bridge " + d.Bridge
	switch {
	case hook == "up":
		s += " takes it up"
	case hook == "flood" && len(d.Ports) == 0:
		s += " floods"
	case hook == "flood":
		s += " floods to " + strings.Join(d.Ports, ", ")
	case d.Out == "":
		return s + " forwards"
	default:
		s += " → " + d.Out
	}
	if d.Blocked != "" {
		s += ": blocked, " + d.Blocked
	}
	if d.Netfilter {
		s += ", through br_netfilter"
	}
	return s
}
