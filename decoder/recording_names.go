// SPDX-License-Identifier: Apache-2.0

// The names a recording gives to what its records number: interfaces, and one
// sentence per packet for people who open it in Wireshark.

package decoder

import (
	"strconv"

	"waymark/bpf"
)

// recordedDevice is a device of one node.
type recordedDevice struct{ netns, index uint32 }

// recordedNames is what contexts said about one node.
type recordedNames struct {
	node       string
	kernel     string
	namespaces map[uint32]*Namespace
	devices    map[recordedDevice]string
	symbols    map[uint64]string
	reasons    map[uint32]string
}

func newRecordedNames() *recordedNames {
	return &recordedNames{
		namespaces: map[uint32]*Namespace{},
		devices:    map[recordedDevice]string{},
		symbols:    map[uint64]string{},
		reasons:    map[uint32]string{},
	}
}

// learn takes what c says. It tells whether an interface may be called
// differently now.
func (n *recordedNames) learn(c *Context) (renamed bool) {
	switch {
	case c.Namespace != nil:
		old := n.namespaces[c.Namespace.Inode]
		n.namespaces[c.Namespace.Inode] = c.Namespace
		return old == nil || *old != *c.Namespace
	case c.Device != nil:
		id := recordedDevice{c.Device.Netns, c.Device.Index}
		renamed = n.devices[id] != c.Device.Name
		n.devices[id] = c.Device.Name
	case c.Symbol != nil:
		n.symbols[c.Symbol.Addr] = c.Symbol.Name
	case c.Reason != nil:
		n.reasons[c.Reason.Number] = c.Reason.Name
	}
	return renamed
}

// interfaceName is NETNS/DEV.
func (n *recordedNames) interfaceName(id recordedDevice) string {
	name := "-" // the record tells no namespace
	if ns := n.namespaces[id.netns]; ns != nil && ns.Name != "" {
		name = ns.Name
	} else if id.netns != 0 {
		name = "net:[" + strconv.FormatUint(uint64(id.netns), 10) + "]" // as in /proc/PID/ns
	}
	dev := n.devices[id]
	switch {
	case id.index == 0:
		dev = "-"
	case dev == "":
		dev = "if" + strconv.FormatUint(uint64(id.index), 10)
	}
	return name + "/" + dev
}

// noLinkHeader ends the description of the second interface of a device, the
// one of packets that have no link header.
const noLinkHeader = ", packets without link header"

// interfaceDescription says where the device is.
func (n *recordedNames) interfaceDescription(netns uint32, l3 bool) string {
	d := "node " + n.node
	if n.node == "" {
		d = "node -"
	}
	if ns := n.namespaces[netns]; ns != nil && ns.Pod != "" {
		d += ", pod " + ns.Pod
	}
	if netns != 0 {
		d += ", netns " + strconv.FormatUint(uint64(netns), 10)
	}
	if l3 {
		d += noLinkHeader
	}
	return d
}

// appendSentence adds the sentence that stands beside a packet in Wireshark.
// place is NETNS/DEV.
func (n *recordedNames) appendSentence(b []byte, r *bpf.Record, ext []byte, place string) []byte {
	switch bpf.Hook(r.Hook) {
	case bpf.HookTCIngress:
		b = append(b, "ingress "...)
	case bpf.HookTCEgress:
		b = append(b, "egress "...)
	case bpf.HookKfreeSkb:
		b = append(b, "dropped at "...)
		b = n.appendSymbol(b, r.Location)
		b = append(b, ": "...)
		b = n.appendReason(b, r.Reason)
		b = append(b, ", "...)
	case bpf.HookConnect:
		b = append(b, "not sent, no port is left: EADDRNOTAVAIL, "...)
	case bpf.HookConsumeSkb:
		b = append(b, "freed after use"...)
		if r.Location != 0 {
			b = append(b, " at "...)
			b = n.appendSymbol(b, r.Location)
		}
		b = append(b, ", "...)
	case bpf.HookKfreeSkbmem:
		b = append(b, "end of the packet's memory, "...)
	case bpf.HookSkbSegment:
		b = append(b, "cut from trail "...)
		b = strconv.AppendUint(b, r.Parent, 10)
		b = append(b, ", "...)
	case bpf.HookSkbClone:
		b = append(b, "copied from trail "...)
		b = strconv.AppendUint(b, r.Parent, 10)
		b = append(b, ", "...)
	case bpf.HookQueueEnter:
		b = append(b, "enters queue "...)
		if q, err := bpf.DecodeExt[bpf.QueueExt](ext); err == nil {
			b = strconv.AppendUint(b, uint64(q.Queue), 10)
		}
		b = append(b, ", "...)
	case bpf.HookIPVSForward, bpf.HookIPVSReply:
		if x, err := bpf.DecodeExt[bpf.IPVSExt](ext); err == nil {
			d := ipvsDetail(&x)
			b = append(b, d.text(ipvsHook(r))...)
		}
		b = append(b, ", "...)
	case bpf.HookNFTChain, bpf.HookIPTTable:
		if x, err := bpf.DecodeExt[bpf.NetfilterExt](ext); err == nil {
			d := netfilterDetail(r, &x)
			b = append(b, d.text(nfDecision(r.Verdict))...)
		}
		b = append(b, ", "...)
	case bpf.HookNAT:
		if x, err := bpf.DecodeExt[bpf.NATExt](ext); err == nil {
			b = append(b, natDetail(r, &x).text()...)
		}
		b = append(b, ", "...)
	case bpf.HookConntrack:
		if x, err := bpf.DecodeExt[bpf.ConntrackExt](ext); err == nil {
			b = append(b, conntrackDetail(r, &x).text("")...)
		}
		b = append(b, ", "...)
	case bpf.HookBridgeForward, bpf.HookBridgeFlood:
		if x, err := bpf.DecodeExt[bpf.BridgeExt](ext); err == nil {
			b = append(b, "bridge: "...)
			b = append(b, bridgeHook(r, &x)...)
		}
		b = append(b, ", "...)
	case bpf.HookSocketReceive:
		if x, err := bpf.DecodeExt[bpf.SocketExt](ext); err == nil {
			b = append(b, socketDetail(&x).text()...)
		}
		b = append(b, ", "...)
	case bpf.HookSocketReset, bpf.HookSocketReject, bpf.HookSocketICMP:
		if d := answerDetail(r, ext); d != nil {
			b = append(b, d.text()...)
		}
		b = append(b, ", "...)
	case bpf.HookQueueVerdict:
		b = append(b, "queue's verdict: "...)
		b = append(b, nfVerdict(r.Verdict)...)
		b = append(b, ", "...)
	default:
		b = append(b, "hook "...)
		b = strconv.AppendUint(b, uint64(r.Hook), 10)
		b = append(b, ", "...)
	}
	b = append(b, place...)
	if r.Mark != 0 {
		b = append(b, ", mark 0x"...)
		b = strconv.AppendUint(b, uint64(r.Mark), 16)
		b = append(b, " ("...)
		b = strconv.AppendUint(b, uint64(r.Mark), 10)
		b = append(b, ')')
	}
	return b
}

func (n *recordedNames) appendSymbol(b []byte, addr uint64) []byte {
	switch name := n.symbols[addr]; {
	case name != "":
		return append(b, name...)
	case addr == 0:
		return append(b, "an unknown place"...)
	}
	b = append(b, "0x"...)
	return strconv.AppendUint(b, addr, 16)
}

func (n *recordedNames) appendReason(b []byte, number uint32) []byte {
	if name := n.reasons[number]; name != "" {
		return append(b, name...)
	}
	b = append(b, "reason "...)
	return strconv.AppendUint(b, uint64(number), 10)
}
