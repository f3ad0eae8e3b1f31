// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"testing"
)

// queueMessage is what the kernel sends for a packet.
func queueMessage(id uint32, payload []byte) []byte {
	m := make([]byte, nlHeader)
	binary.NativeEndian.PutUint16(m[4:], nfqnlMsgPacket)
	attr := func(kind uint16, value []byte) {
		m = binary.NativeEndian.AppendUint16(m, uint16(attrHeader+len(value)))
		m = binary.NativeEndian.AppendUint16(m, kind)
		m = append(m, value...)
		for len(m)%4 != 0 {
			m = append(m, 0)
		}
	}
	attr(nfqaPacketHdr, append(binary.BigEndian.AppendUint32(nil, id), 8, 0, 0))
	attr(nfqaMark, []byte{0, 0, 0, 7})
	attr(nfqaPayload, payload)
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	return m
}

// FuzzPacketOfMessage: whatever a message says of its lengths, nothing behind
// its end is read, and a packet that has an id can be given its verdict.
func FuzzPacketOfMessage(f *testing.F) {
	whole := queueMessage(4711, make([]byte, 41))
	f.Add(whole)
	f.Add(whole[:len(whole)-20])
	f.Add(whole[:nlHeader])
	f.Fuzz(func(t *testing.T, m []byte) {
		id, payload, ok := packetOfMessage(m)
		if ok && (id == 0 || len(payload) > len(m)) {
			t.Fatalf("id %d, %d bytes of a message of %d", id, len(payload), len(m))
		}
	})
}

func TestPacketOfMessage(t *testing.T) {
	payload := []byte("packet")
	id, got, ok := packetOfMessage(queueMessage(4711, payload))
	if id != 4711 || string(got) != string(payload) || !ok {
		t.Fatalf("%d, %q, %v", id, got, ok)
	}
	// Cut, the packet still waits for its verdict.
	m := queueMessage(4711, payload)
	if id, _, ok := packetOfMessage(m[:len(m)-4]); id != 4711 || ok {
		t.Fatalf("cut: %d, %v", id, ok)
	}
}
