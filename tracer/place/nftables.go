// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"waymark/decoder"
)

// Rules of nftables are read one at a time, when a packet was decided by one:
// a node may have ten thousand.

// ReadNetfilterRule reads the rule with that handle in the table with that
// handle. Neither is ever given twice in a namespace, so the rule is the one
// meant, or gone. chain is its chain's name, empty if that is not known whole.
func ReadNetfilterRule(ns Namespace, table, rule uint64, chain string) (r *decoder.NetfilterRule, err error) {
	err = ns.Do(func() error {
		r, err = readNetfilterRule(table, rule, chain)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read rule %d of table %d in %s: %w", rule, table, ns.Name, err)
	}
	r.Netns = ns.Inode
	return r, nil
}

var (
	errNoRule   = errors.New("it is gone")
	errShortNFT = errors.New("nftables message is cut off")
)

const (
	nfgenmsgLen     = 4 // struct nfgenmsg, the start of a message: family, version, resource id
	nftaTableHandle = 4 // NFTA_TABLE_HANDLE
)

func readNetfilterRule(table, handle uint64, chain string) (*decoder.NetfilterRule, error) {
	tables, err := nftRequest(unix.NFT_MSG_GETTABLE, unix.NFT_MSG_NEWTABLE, unix.NFPROTO_UNSPEC, unix.NLM_F_DUMP)
	if err != nil {
		return nil, err
	}
	for _, m := range tables {
		t, err := parseNFTTable(m)
		if err != nil {
			return nil, err
		}
		if t.handle == table {
			return t.rule(handle, chain)
		}
	}
	return nil, errNoRule
}

// nftRequest asks the nftables of the namespace the calling thread is in.
func nftRequest(ask, answer int, family uint8, flags int, attrs ...*nl.RtAttr) ([][]byte, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|ask, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: unix.NFNETLINK_V0})
	for _, a := range attrs {
		req.AddData(a)
	}
	return req.Execute(unix.NETLINK_NETFILTER, uint16(unix.NFNL_SUBSYS_NFTABLES<<8|answer))
}

type nftTable struct {
	family uint8 // NFPROTO_*
	name   string
	handle uint64
}

func parseNFTTable(m []byte) (t nftTable, err error) {
	if len(m) < nfgenmsgLen {
		return t, errShortNFT
	}
	t.family = m[0]
	attrs, err := parseAttributes(m[nfgenmsgLen:])
	if err != nil {
		return t, err
	}
	t.name = unix.ByteSliceToString(attrs[unix.NFTA_TABLE_NAME])
	t.handle, _ = attrs.number64(nftaTableHandle)
	return t, nil
}

func (t *nftTable) rule(handle uint64, chain string) (*decoder.NetfilterRule, error) {
	attrs := []*nl.RtAttr{nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(t.name))}
	flags := unix.NLM_F_DUMP
	if chain != "" {
		flags = 0
		attrs = append(attrs, nl.NewRtAttr(unix.NFTA_RULE_CHAIN, nl.ZeroTerminated(chain)),
			nl.NewRtAttr(unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, handle)))
	}
	rules, err := nftRequest(unix.NFT_MSG_GETRULE, unix.NFT_MSG_NEWRULE, t.family, flags, attrs...)
	if errors.Is(err, unix.ENOENT) {
		return nil, errNoRule
	}
	if err != nil {
		return nil, err
	}
	for _, m := range rules {
		r, err := parseNFTRule(m)
		if err != nil {
			return nil, err
		}
		if r.Handle == handle {
			r.TableHandle = t.handle
			return r, nil
		}
	}
	return nil, errNoRule
}

// parseNFTRule parses a NFT_MSG_NEWRULE message without its netlink header.
func parseNFTRule(m []byte) (*decoder.NetfilterRule, error) {
	if len(m) < nfgenmsgLen {
		return nil, errShortNFT
	}
	attrs, err := parseAttributes(m[nfgenmsgLen:])
	if err != nil {
		return nil, err
	}
	r := &decoder.NetfilterRule{
		Table: unix.ByteSliceToString(attrs[unix.NFTA_RULE_TABLE]),
		Chain: unix.ByteSliceToString(attrs[unix.NFTA_RULE_CHAIN]),
	}
	r.Handle, _ = attrs.number64(unix.NFTA_RULE_HANDLE)
	w := newNFTWriter(m[0])
	err = eachAttribute(attrs[unix.NFTA_RULE_EXPRESSIONS], func(_ uint16, v []byte) error {
		e, err := parseAttributes(v)
		if err != nil {
			return err
		}
		data, err := parseAttributes(e[unix.NFTA_EXPR_DATA])
		if err != nil {
			return err
		}
		w.expression(unix.ByteSliceToString(e[unix.NFTA_EXPR_NAME]), data)
		return nil
	})
	if err != nil {
		return nil, err
	}
	w.userData(attrs[unix.NFTA_RULE_USERDATA])
	r.Text = w.text()
	return r, nil
}

// nftAttributes are the attributes of one nest, by their number. Those of
// nftables are big endian, but for what a register holds.
type nftAttributes map[uint16][]byte

func parseAttributes(b []byte) (nftAttributes, error) {
	attrs := nftAttributes{}
	err := eachAttribute(b, func(kind uint16, v []byte) error {
		attrs[kind] = v
		return nil
	})
	return attrs, err
}

func eachAttribute(b []byte, take func(kind uint16, v []byte) error) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofRtAttr {
			return errShortNFT
		}
		n := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) & 0x3fff // without NLA_F_NESTED, NLA_F_NET_BYTEORDER
		if n < unix.SizeofRtAttr || n > len(b) {
			return errShortNFT
		}
		if err := take(kind, b[unix.SizeofRtAttr:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// number is an attribute of 1, 2 or 4 bytes; ok is false if it is not there.
func (a nftAttributes) number(kind uint16) (n uint32, ok bool) {
	v := a[kind]
	if len(v) == 0 || len(v) > 4 {
		return 0, false
	}
	for _, b := range v {
		n = n<<8 | uint32(b)
	}
	return n, true
}

func (a nftAttributes) number64(kind uint16) (uint64, bool) {
	v := a[kind]
	if len(v) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(v), true
}
