// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Requests to a queue that serves packets already. Nobody waits for an answer,
// which would come between the packets: the kernel answers only what it
// refuses, and batchLoop reads that.

// Attributes of NFQNL_MSG_CONFIG, linux/netfilter/nfnetlink_queue.h; numbers
// are big endian.
const (
	nfqnlMsgConfig    = unix.NFNL_SUBSYS_QUEUE<<8 | 2
	nfqaCfgParams     = 2 // u32 copy range, u8 copy mode
	nfqaCfgQueueMax   = 3 // u32
	nfqaCfgMask       = 4 // u32, which flags to change
	nfqaCfgFlags      = 5 // u32
	nfqnlCopyPacket   = 2
	nlmsgErrorRequest = unix.SizeofNlMsghdr + 4 // after it comes the refused request
)

// copy makes the kernel give packets, and that many bytes of each.
func (q *queue) copy(bytes int) error {
	return q.configure(attribute{nfqaCfgParams, append(bigEndian(uint32(bytes)), nfqnlCopyPacket)})
}

// limit sets how many packets may wait. With 0 the kernel takes no more, which
// it counts as dropped from a full queue (or lets them pass, with fail-open).
func (q *queue) limit(packets uint32) error {
	return q.configure(attribute{nfqaCfgQueueMax, bigEndian(packets)})
}

// flags sets those in mask.
func (q *queue) flags(flags, mask uint32) error {
	return q.configure(attribute{nfqaCfgFlags, bigEndian(flags)}, attribute{nfqaCfgMask, bigEndian(mask)})
}

func bigEndian(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

type attribute struct {
	kind  uint16
	value []byte
}

func (q *queue) configure(attributes ...attribute) error {
	m := make([]byte, nlHeader)
	binary.NativeEndian.PutUint16(m[4:], nfqnlMsgConfig)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST)
	binary.BigEndian.PutUint16(m[18:], q.number)
	for _, a := range attributes {
		m = binary.NativeEndian.AppendUint16(m, uint16(attrHeader+len(a.value)))
		m = binary.NativeEndian.AppendUint16(m, a.kind)
		m = append(m, a.value...)
		m = append(m, make([]byte, -len(a.value)&3)...) // to a multiple of 4
	}
	binary.NativeEndian.PutUint32(m[0:], uint32(len(m)))
	for {
		err := unix.Sendto(q.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				err = fmt.Errorf("configure: %w", err)
			}
			return err
		}
	}
}

// refusal is what the kernel says no to, and why. ok is false for a message
// that is none.
func refusal(m []byte) (request []byte, errno unix.Errno, ok bool) {
	if len(m) < nlmsgErrorRequest+nlHeader || binary.NativeEndian.Uint16(m[4:]) != unix.NLMSG_ERROR {
		return nil, 0, false
	}
	code := int32(binary.NativeEndian.Uint32(m[unix.SizeofNlMsghdr:]))
	return m[nlmsgErrorRequest:], unix.Errno(-code), true
}
