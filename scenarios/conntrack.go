// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// A full conntrack table: a limit, and as many connections that do not end. The
// limit is one for the machine and written in its own namespace; the number of
// connections is each namespace's.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	conntrackLimit = "/proc/sys/net/netfilter/nf_conntrack_max"
	conntrackCount = "/proc/sys/net/netfilter/nf_conntrack_count"

	// heldConnections is the limit while a table is full, and how many connections
	// are held there.
	heldConnections = 512
	// othersConnections is how many any other namespace of the machine may have, not
	// to notice.
	othersConnections = heldConnections / 4
)

// fillConnections fills the conntrack table of a node.
func (w *World) fillConnections(node string) error {
	if err := w.limitConnections(); err != nil {
		return err
	}
	return w.Inside(node, func() error {
		// Those that are there would make room when they are not needed any more.
		if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			return fmt.Errorf("end the connections of %s: %w", node, err)
		}
		for i := range uint16(heldConnections) {
			err := holdConnection(i)
			if errors.Is(err, unix.ENOMEM) {
				return nil // it is full
			}
			if err != nil {
				return fmt.Errorf("hold connection %d in %s: %w", i, node, err)
			}
		}
		return nil
	})
}

// freeConnections ends every connection of a node's table and gives the machine
// its limit back.
func (w *World) freeConnections(node string) error {
	if w.record.ConnectionLimit == 0 {
		return nil // nothing was changed
	}
	err := w.Inside(node, func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	err = errors.Join(wrap("end the connections of "+node, err), w.lab.restoreConnectionLimit())
	if err != nil {
		return err
	}
	w.record.ConnectionLimit = 0
	return w.save()
}

// limitConnections lowers the machine's limit, unless another user of the machine
// has so many connections that this would hurt.
func (w *World) limitConnections() error {
	limit, err := readNumber(conntrackLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: it tracks no connections (nf_conntrack)", ErrUnsupported)
	}
	if err != nil || limit == heldConnections {
		return err
	}
	if err := w.othersTrackLittle(); err != nil {
		return err
	}
	if w.record.ConnectionLimit == 0 {
		w.record.ConnectionLimit = limit
	}
	if err := w.save(); err != nil { // first: after a crash, down must know it
		return err
	}
	return wrap("limit this machine's connections", os.WriteFile(conntrackLimit, []byte(strconv.Itoa(heldConnections)), 0))
}

// restoreConnectionLimit writes back the limit that the machine had.
func (l *lab) restoreConnectionLimit() error {
	r, err := l.readRecord()
	if err != nil || r == nil || r.ConnectionLimit == 0 {
		return err
	}
	err = os.WriteFile(conntrackLimit, []byte(strconv.Itoa(r.ConnectionLimit)), 0)
	return wrap("give this machine its limit of connections back", err)
}

// othersTrackLittle refuses where a namespace that is not the lab's has more than
// a few connections: the limit would be its limit too.
func (w *World) othersTrackLittle() error {
	seen := map[string]bool{}
	for _, n := range w.nodes {
		seen[namespaceOf(fmt.Sprintf("/proc/self/fd/%d", n.ns.Fd()))] = true
	}
	all, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return err
	}
	for _, path := range all {
		ns := namespaceOf(path)
		if ns == "" || seen[ns] { // it ended, or was looked at
			continue
		}
		seen[ns] = true
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		count := 0
		err = inside(f, func() (err error) {
			count, err = readNumber(conntrackCount)
			return err
		})
		f.Close()
		if err == nil && count > othersConnections {
			return fmt.Errorf("%w in use: %d connections are tracked in %s of %s, and the limit that this fault sets would be theirs as well; set it on a machine that does nothing else",
				ErrUnsupported, count, ns, path)
		}
	}
	return nil
}

// namespaceOf is the name of the namespace that a link of /proc leads to,
// "net:[4026531840]"; empty if it is gone.
func namespaceOf(path string) string {
	s, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	if !strings.HasPrefix(s, "net:") { // a file of NamespaceDir
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil {
			return ""
		}
		return fmt.Sprintf("net:[%d]", st.Ino)
	}
	return s
}

func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// Numbers of include/uapi/linux/netfilter/nfnetlink_conntrack.h that the netlink
// library does not have, and bits of enum ip_conntrack_status: answered, and so
// not thrown out for a new one, and in the table.
const (
	ctaStatus  = 3
	ctaTimeout = 7

	conntrackSeenReply = 1 << 1
	conntrackAssured   = 1 << 2
	conntrackConfirmed = 1 << 3

	// heldSeconds is longer than anybody looks at a lab.
	heldSeconds = 24 * 3600
)

// holdConnection adds the i-th connection, of UDP between addresses nobody has
// (RFC 2544), to the table of the namespace the thread is in.
func holdConnection(i uint16) error {
	a, b := []byte{198, 18, 0, 1}, []byte{198, 19, 0, 1}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_NEW, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	req.AddData(conntrackTuple(nl.CTA_TUPLE_ORIG, a, b, 1024+i, 9))
	req.AddData(conntrackTuple(nl.CTA_TUPLE_REPLY, b, a, 9, 1024+i))
	req.AddData(nl.NewRtAttr(ctaStatus, nl.BEUint32Attr(conntrackSeenReply|conntrackAssured|conntrackConfirmed)))
	req.AddData(nl.NewRtAttr(ctaTimeout, nl.BEUint32Attr(heldSeconds)))
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}

func conntrackTuple(kind int, src, dst []byte, sport, dport uint16) *nl.RtAttr {
	t := nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil)
	ip := t.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil)
	ip.AddRtAttr(nl.CTA_IP_V4_SRC, src)
	ip.AddRtAttr(nl.CTA_IP_V4_DST, dst)
	proto := t.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_UDP})
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, binary.BigEndian.AppendUint16(nil, sport))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, dport))
	return t
}
