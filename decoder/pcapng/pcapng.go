// SPDX-License-Identifier: Apache-2.0

// Package pcapng writes and reads the pcapng capture file format
// (draft-ietf-opsawg-pcapng) with what packet libraries leave out: options on
// packets, custom options and custom blocks.
//
// It knows the format and nothing else: it refuses to look into packets, to
// open files, to guess at broken input, and to write a block that a reader
// could not read back.
package pcapng

import (
	"errors"
	"fmt"
)

// MaxBlock is the largest block in bytes that is written or read, the bound
// Wireshark has too.
const MaxBlock = 16 << 20

// BlockType is the type of a block.
type BlockType uint32

// The blocks this package reads. Others are skipped.
const (
	BlockSection    BlockType = 0x0A0D0D0A
	BlockInterface  BlockType = 1
	BlockOldPacket  BlockType = 2 // obsolete, read as a packet
	BlockSimple     BlockType = 3 // no time, no options; read as a packet
	BlockStatistics BlockType = 5
	BlockPacket     BlockType = 6
	BlockCustom     BlockType = 0x00000BAD // copied by tools that rewrite files
	BlockCustomKeep BlockType = 0x40000BAD // not copied
)

// Option codes, per block.
const (
	optEnd            = 0
	optComment        = 1
	optCustomText     = 2988
	optCustom         = 2989
	optCustomTextKeep = 19372
	optCustomKeep     = 19373

	shbHardware = 2
	shbOS       = 3
	shbApp      = 4

	ifName        = 2
	ifDescription = 3
	ifTSResol     = 9
	ifFilter      = 11
	ifOS          = 12
	ifTSOffset    = 14

	epbFlags     = 2
	epbDropCount = 4
	epbPacketID  = 5
	epbQueue     = 6
	epbVerdict   = 7

	isbStart   = 2
	isbEnd     = 3
	isbRecv    = 4
	isbDrop    = 5
	isbOSDrop  = 7
	isbDeliver = 8
)

// LinkType says what a packet's first header is (the LINKTYPE_ registry).
type LinkType uint16

// Link types waymark writes.
const (
	LinkEthernet LinkType = 1
	LinkRaw      LinkType = 101 // IPv4 or IPv6, told apart by the version field
)

// Section is a section header: who wrote what follows, and where.
type Section struct {
	Hardware    string // machine it was captured on
	OS          string // operating system it was captured on
	Application string // program that wrote the file
	Comment     string
	Custom      []CustomOption
}

// NanoResolution is the value of Interface.TSResol for nanoseconds.
const NanoResolution = 9

// Interface describes where packets were captured.
type Interface struct {
	LinkType    LinkType
	SnapLen     uint32 // most bytes kept of a packet; 0: no limit
	Name        string
	Description string
	Filter      string // pcap-filter(7) text
	OS          string
	TSResol     uint8 // unit of packet times: 10^-n s, or 2^-n s with the top bit set
	TSOffset    int64 // seconds to add to packet times
}

// Direction bits of Packet.Flags.
const (
	FlagInbound  uint32 = 1
	FlagOutbound uint32 = 2
)

// Packet is one captured packet. What a Reader returns aliases its buffer and
// holds until the next call of Next.
type Packet struct {
	Interface int    // number of the interface in this section, from 0
	Time      uint64 // in units of the interface, see Interface.Time
	Data      []byte // what was kept
	OrigLen   uint32 // bytes on the wire, at least len(Data)

	Flags     uint32   // epb_flags, 0: not written
	DropCount uint64   // packets lost before this one, 0: not written
	PacketID  uint64   // same number, same packet, on another interface
	Queue     uint32   // queue of the interface
	HasID     bool     // PacketID is present
	HasQueue  bool     // Queue is present
	Comments  [][]byte // UTF-8
	Verdicts  []Verdict
	Custom    []CustomOption
}

// VerdictKind says whose verdict it is.
type VerdictKind uint8

// Kinds of verdicts.
const (
	VerdictHardware VerdictKind = 0 // Raw, format of the device
	VerdictTC       VerdictKind = 1 // Value is a TC_ACT_* number
	VerdictXDP      VerdictKind = 2 // Value is an XDP_* number
)

// Verdict is what a TC or XDP program, or the device, decided about a packet.
type Verdict struct {
	Kind  VerdictKind
	Value uint64
	Raw   []byte
}

// CustomOption is a binary option of the enterprise PEN (IANA number).
type CustomOption struct {
	PEN  uint32
	Data []byte
	Keep bool // tools that rewrite the file must not copy it
}

// Custom is a custom block. Data as read may have up to 3 bytes of padding at
// its end and, if the writer used them, options: only the PEN's owner can tell.
type Custom struct {
	PEN  uint32
	Data []byte
	Keep bool // tools that rewrite the file must not copy it
}

// Statistics closes the account of one interface. Times are in units of the
// interface; 0 fields are not written.
type Statistics struct {
	Interface int
	Time      uint64 // when the counters held
	Start     uint64 // capture started
	End       uint64 // capture ended
	Received  uint64
	Dropped   uint64 // by the interface
	OSDropped uint64 // by the operating system
	Delivered uint64 // to the program
	Custom    []CustomOption
}

var (
	// ErrTruncated says that the file ends inside a block. Everything before
	// it was delivered.
	ErrTruncated = errors.New("file is cut off")
	// ErrCorrupt says that lengths or numbers in the file contradict each other.
	ErrCorrupt = errors.New("file is damaged")
	// ErrNotPcapng says that the file never was a pcapng file.
	ErrNotPcapng = errors.New("not a pcapng file")
	// ErrTooLong says that an option or block cannot be expressed in the format.
	ErrTooLong = errors.New("too long for pcapng")
)

// Error is a fault at a place in the file. Kind is ErrTruncated, ErrCorrupt,
// ErrNotPcapng or the error of the underlying reader.
type Error struct {
	Offset int64 // of the block that could not be read, in bytes from the start
	Kind   error
	Detail string
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("%v at byte %d", e.Kind, e.Offset)
	}
	return fmt.Sprintf("%v at byte %d: %s", e.Kind, e.Offset, e.Detail)
}

func (e *Error) Unwrap() error { return e.Kind }
