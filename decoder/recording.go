// SPDX-License-Identifier: Apache-2.0

// Recordings: how the stream of records and contexts is laid out in pcapng.
//
// A record with packet bytes is an enhanced packet block, so that Wireshark
// shows it; the rest of the record rides in a custom option of the block.
// Everything else (contexts, records without packet bytes) rides, in its
// order, in custom options of the next packet, ahead of the packet's own. What
// cannot wait for a packet rides in interface statistics, the first session in
// the section header. Custom blocks carry what fits nowhere else: programs
// show them as packets without time, and those that rewrite captures (editcap
// and mergecap of Wireshark 4.0) refuse files with them, but keep the options.
//
// Every payload begins with the same head, little endian whatever the file's
// byte order is:
//
//	0  7  "waymark"
//	7  1  the layout's version, 1
//	8  1  kind
//	9  1  flags
//	10 2  piece of a context: how many pieces came before
//	12 4  n, length in bytes of what follows (a block pads its end)
//	16 n  content by kind

package decoder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"waymark/bpf"
)

// RecordFormat is the version of the record layout that this waymark writes
// (Session.Format) and the newest that it reads.
const RecordFormat = 1

// ErrNoRecords says that a file is fine but no recording of waymark's.
var ErrNoRecords = errors.New("no waymark records")

// ErrNewerRecording says that a recording is of a format that this waymark does
// not know yet.
var ErrNewerRecording = errors.New("a newer waymark's recording")

const (
	// recordingPEN is the enterprise number set aside for documentation
	// (RFC 5612); the magic tells ours from others that use it.
	recordingPEN   = 32473
	recordingName  = "waymark"
	recordingMagic = recordingName + "\x01"
	recordingHead  = 16
	// recordingLayout is the version of the payloads' layout, in the magic. It
	// changes only if the head itself does; what payloads hold has RecordFormat.
	recordingLayout = 1

	recordingApp = "waymark" // first word of the section's application
)

// Kinds of payloads. Stored: append only.
const (
	// kindRecord is one raw record.
	kindRecord = 1
	// kindContext is one Context as JSON, or its last piece.
	kindContext = 2
	// kindContextPart is a piece of a Context too long for one option; more
	// pieces follow.
	kindContextPart = 3
	// kindPacket is the raw record of the packet whose option it is, without
	// the packet's bytes.
	kindPacket = 4
)

// maxContent is the longest content in an option, in bytes: an option has 16
// bits for its length.
const maxContent = 60000

// flagTagAdded says that the packet's bytes have a VLAN tag that the kernel
// kept beside the packet; it is not part of the record's snapshot.
const flagTagAdded = 1

// vlanTag is the length of a VLAN tag, vlanAt where it sits in a frame (IEEE
// 802.1Q: after both addresses).
const (
	vlanTag = 4
	vlanAt  = 12
)

// recordingHeader is the head of a payload, without magic and length.
type recordingHeader struct {
	kind  byte
	flags byte
	piece uint16
}

// recordingPayload is a parsed payload of ours. content aliases the block.
type recordingPayload struct {
	recordingHeader
	content []byte
}

// appendPayloadHead starts a payload whose content has n bytes.
func appendPayloadHead(dst []byte, h recordingHeader, n int) []byte {
	dst = append(dst, recordingMagic...)
	dst = append(dst, h.kind, h.flags)
	dst = binary.LittleEndian.AppendUint16(dst, h.piece)
	return binary.LittleEndian.AppendUint32(dst, uint32(n))
}

// parsePayload takes apart b, the data of a custom option or block. ok is
// false if it is not ours; a newer waymark's is an error.
func parsePayload(pen uint32, b []byte) (p recordingPayload, ok bool, err error) {
	if pen == recordingPEN && len(b) > len(recordingName) && string(b[:len(recordingName)]) == recordingName && b[len(recordingName)] > recordingLayout {
		return p, true, fmt.Errorf("%w: its blocks have layout %d, this waymark reads up to %d; use a newer waymark",
			ErrNewerRecording, b[len(recordingName)], recordingLayout)
	}
	if pen != recordingPEN || len(b) < recordingHead || string(b[:len(recordingMagic)]) != recordingMagic {
		return p, false, nil
	}
	n := binary.LittleEndian.Uint32(b[12:])
	if uint64(n) > uint64(len(b)-recordingHead) {
		return p, true, recordingDamagef("content of %d bytes in a payload of %d", n, len(b))
	}
	p.recordingHeader = recordingHeader{kind: b[8], flags: b[9], piece: binary.LittleEndian.Uint16(b[10:])}
	p.content = b[recordingHead : recordingHead+int(n)]
	return p, true, nil
}

// recordingDamage is a fault inside a payload of ours.
type recordingDamage string

func (d recordingDamage) Error() string { return string(d) }

func recordingDamagef(format string, args ...any) error {
	return recordingDamage(fmt.Sprintf(format, args...))
}

// Where a raw record says how long its parts are (record.h), little endian.
const (
	extLenAt  = unsafe.Offsetof(bpf.Record{}.ExtLen)
	snapLenAt = unsafe.Offsetof(bpf.Record{}.SnapLen)
	hookAt    = unsafe.Offsetof(bpf.Record{}.Hook)
)

// recordParts returns the lengths of a record's fixed header with the hook's
// part, and of its snapshot. content may lack the snapshot.
func recordParts(content []byte) (head, snapshot int, err error) {
	if len(content) < bpf.RecordSize {
		return 0, 0, recordingDamagef("record of %d bytes", len(content))
	}
	head = bpf.RecordSize + int(binary.LittleEndian.Uint16(content[extLenAt:]))
	if head > len(content) {
		return 0, 0, recordingDamagef("record of %d bytes says that its header has %d", len(content), head)
	}
	return head, int(binary.LittleEndian.Uint16(content[snapLenAt:])), nil
}
