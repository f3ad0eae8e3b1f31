// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Datagrams whose fragments come in the wrong order: no socket sends such, so they
// are made here.

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	udpHeaderLen = 8
	// fragmentLen is the payload of a fragment, in bytes: a multiple of 8, as the
	// offset counts (RFC 791, RFC 8200), and with its headers no longer than any
	// lab's MTU.
	fragmentLen = 1400
)

// askReversed is askUDP with the request in fragments, the last one first.
func (w *World) askReversed(client string, c net.Conn, request []byte) (Reply, error) {
	for _, f := range slices.Backward(fragmentsOf(addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()), request)) {
		if err := w.Inject(client, f); err != nil {
			return Reply{}, err
		}
	}
	return readUDP(c)
}

// fragmentsOf are the packets, from their IP headers on, that carry a datagram. Their
// identification is the source port.
func fragmentsOf(src, dst netip.AddrPort, payload []byte) (packets [][]byte) {
	datagram := make([]byte, udpHeaderLen, udpHeaderLen+len(payload))
	binary.BigEndian.PutUint16(datagram[0:], src.Port())
	binary.BigEndian.PutUint16(datagram[2:], dst.Port())
	binary.BigEndian.PutUint16(datagram[4:], uint16(udpHeaderLen+len(payload)))
	datagram = append(datagram, payload...)
	binary.BigEndian.PutUint16(datagram[6:], udpChecksum(src.Addr(), dst.Addr(), datagram))
	for at := 0; at < len(datagram); at += fragmentLen {
		end := min(at+fragmentLen, len(datagram))
		packets = append(packets, append(fragmentHeader(src, dst, at, end-at, end < len(datagram)), datagram[at:end]...))
	}
	return packets
}

// fragmentHeader is what comes before n bytes of a datagram, from its offset at on.
func fragmentHeader(src, dst netip.AddrPort, at, n int, more bool) []byte {
	const ttl = 64
	if src.Addr().Is4() {
		h := make([]byte, 20)
		h[0], h[8], h[9] = 4<<4|5, ttl, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(h[2:], uint16(len(h)+n))
		binary.BigEndian.PutUint16(h[4:], src.Port())
		offset := uint16(at / 8)
		if more {
			offset |= 0x2000
		}
		binary.BigEndian.PutUint16(h[6:], offset)
		copy(h[12:], src.Addr().AsSlice())
		copy(h[16:], dst.Addr().AsSlice())
		return h // the kernel fills in the checksum
	}
	h := make([]byte, 48)
	h[0], h[6], h[7] = 6<<4, unix.IPPROTO_FRAGMENT, ttl
	binary.BigEndian.PutUint16(h[4:], uint16(8+n))
	copy(h[8:], src.Addr().AsSlice())
	copy(h[24:], dst.Addr().AsSlice())
	h[40] = unix.IPPROTO_UDP
	offset := uint16(at) // in bytes, whose last three bits are flags
	if more {
		offset |= 1
	}
	binary.BigEndian.PutUint16(h[42:], offset)
	binary.BigEndian.PutUint32(h[44:], uint32(src.Port()))
	return h
}

// udpChecksum is that of a datagram whose own is 0 (RFC 768, RFC 8200).
func udpChecksum(src, dst netip.Addr, datagram []byte) uint16 {
	sum := uint32(unix.IPPROTO_UDP) + uint32(len(datagram))
	for _, b := range [][]byte{src.AsSlice(), dst.AsSlice(), datagram} {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		return 0xffff // 0 says that there is none
	}
	return ^uint16(sum)
}

// checkReversed says what is wrong with a request for fragments.
func (t Traffic) checkReversed() error {
	switch {
	case !t.ReverseFragments:
	case !t.UDP:
		return fmt.Errorf("only datagrams are sent in reversed fragments; use them with UDP (--udp)")
	case t.Size <= fragmentLen-udpHeaderLen:
		return fmt.Errorf("a datagram of %d bytes is one fragment; use more than %d (--size)", t.Size, fragmentLen-udpHeaderLen)
	}
	return nil
}
