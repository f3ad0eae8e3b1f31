// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"waymark/decoder"
)

// readBridgePorts reads the modes of the bridges' ports of the namespace the
// calling thread is in, by their index: the usual list of devices lacks them.
func readBridgePorts(links []netlink.Link) map[int]*decoder.BridgePort {
	bridges := map[int]bool{}
	for _, l := range links {
		bridges[l.Attrs().Index] = l.Type() == "bridge"
	}
	some := false
	for _, l := range links {
		some = some || bridges[l.Attrs().MasterIndex]
	}
	if !some {
		return nil
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil // what is explained by them stays unexplained
	}
	ports := map[int]*decoder.BridgePort{}
	for _, m := range msgs {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		l, err := netlink.LinkDeserialize(&unix.NlMsghdr{Type: unix.RTM_NEWLINK}, m)
		if err != nil || l.Attrs().Protinfo == nil || !bridges[l.Attrs().MasterIndex] {
			continue
		}
		p := l.Attrs().Protinfo
		ports[l.Attrs().Index] = &decoder.BridgePort{Hairpin: p.Hairpin, Learning: p.Learning, Flood: p.Flood}
	}
	return ports
}
