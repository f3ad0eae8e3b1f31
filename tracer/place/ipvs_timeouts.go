// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	attributes "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"waymark/decoder"
)

// Of include/uapi/linux/ip_vs.h.
const (
	ipvsGetConfig   = 13 // IPVS_CMD_GET_CONFIG
	ipvsGenlVersion = 1

	// Attributes, u32 in seconds.
	ipvsTimeoutTCP    = 4
	ipvsTimeoutTCPFIN = 5
	ipvsTimeoutUDP    = 6
)

// readIPVSTimeouts asks the namespace the calling thread is in; nil: it does not
// answer. Asking loads IPVS where it is a module: only for who has services.
func readIPVSTimeouts() *decoder.IPVSTimeouts {
	family, err := netlink.GenlFamilyGet("IPVS")
	if err != nil {
		return nil
	}
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	req.AddData(&nl.Genlmsg{Command: ipvsGetConfig, Version: ipvsGenlVersion})
	answers, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil || len(answers) != 1 {
		return nil
	}
	return parseIPVSTimeouts(answers[0])
}

// parseIPVSTimeouts reads a generic netlink message; nil: it does not have them.
func parseIPVSTimeouts(message []byte) *decoder.IPVSTimeouts {
	if len(message) < nl.SizeofGenlmsg {
		return nil
	}
	attrs, err := attributes.NewAttributeDecoder(message[nl.SizeofGenlmsg:])
	if err != nil {
		return nil
	}
	var t decoder.IPVSTimeouts
	for attrs.Next() {
		switch attrs.Type() {
		case ipvsTimeoutTCP:
			t.TCP = int(attrs.Uint32())
		case ipvsTimeoutTCPFIN:
			t.TCPFIN = int(attrs.Uint32())
		case ipvsTimeoutUDP:
			t.UDP = int(attrs.Uint32())
		}
	}
	if attrs.Err() != nil || t.TCP == 0 {
		return nil
	}
	return &t
}
