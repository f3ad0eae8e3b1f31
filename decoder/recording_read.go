// SPDX-License-Identifier: Apache-2.0

// Replay: a recording into a Sink, as it came from the kernel.

package decoder

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"waymark/decoder/pcapng"
)

// ReplayResult says how far a recording was replayed.
type ReplayResult struct {
	Records  uint64
	Contexts uint64
	// Foreign counts packets that waymark did not record; they are skipped.
	Foreign uint64
	// Shortened counts records whose packet bytes another program cut off;
	// they are delivered with the bytes that are left.
	Shortened uint64
	// Missing counts contexts that are not whole, because the file is cut off
	// or another program took pieces of them; they are skipped.
	Missing uint64
	// Truncated says that the file ends inside a block, as after a crash.
	// Everything up to Offset was delivered.
	Truncated bool
	// Ended says that the recording was closed properly.
	Ended bool
	// Offset is the end of the last whole block, in bytes.
	Offset int64
}

// Replay reads a recording from in and gives its records and contexts, byte
// for byte and in their order, to sink, until the file's end or the sink's
// first error, which is returned as it is. A file that is cut off is not an
// error, see ReplayResult.Truncated. Other errors wrap pcapng.ErrNotPcapng,
// pcapng.ErrCorrupt (everything before the damage was delivered), ErrNoRecords
// or ErrNewerRecording.
func Replay(in io.Reader, sink Sink) (ReplayResult, error) {
	p := replayer{sink: sink, in: pcapng.NewReader(in)}
	err := p.run()
	p.closePieces()
	p.result.Offset = p.in.Offset()
	return p.result, err
}

type replayer struct {
	in     *pcapng.Reader
	sink   Sink
	result ReplayResult

	ours   bool   // a payload of waymark's was seen
	writer string // the last section's application

	packets uint64 // records that came with a packet
	raw     []byte // record being put together
	pieces  []byte // context that is not whole yet
	piece   uint16 // number of the next piece
	open    bool   // pieces came, the last has not
}

func (p *replayer) run() error {
	for {
		b, err := p.in.Next()
		if err != nil {
			return p.end(err)
		}
		switch {
		case b.Section != nil:
			p.writer = b.Section.Application
			err = p.options(b.Section.Custom, nil)
		case b.Statistics != nil:
			err = p.options(b.Statistics.Custom, nil)
		case b.Packet != nil:
			err = p.packet(b.Packet)
		case b.Custom != nil:
			err = p.payload(b.Custom.PEN, b.Custom.Data, nil)
		}
		if d, ok := err.(recordingDamage); ok {
			return &pcapng.Error{Offset: b.Offset, Kind: pcapng.ErrCorrupt, Detail: string(d)}
		}
		if err != nil {
			return err
		}
	}
}

// end judges why reading ended.
func (p *replayer) end(err error) error {
	switch {
	case errors.Is(err, pcapng.ErrTruncated):
		p.result.Truncated = true
	case errors.Is(err, io.EOF):
	case errors.Is(err, pcapng.ErrNotPcapng):
		return fmt.Errorf("%w; give a file that `waymark record` wrote", err)
	default:
		return err
	}
	if p.ours || p.result.Foreign == 0 && isOurs(p.writer) || p.result.Truncated && p.in.Offset() == 0 {
		return nil
	}
	return noRecords(p.writer)
}

// noRecords says that a file is a capture of writer. Like every error here it
// leaves the file's name to the caller.
func noRecords(writer string) error {
	if writer == "" {
		writer = "another program"
	}
	return fmt.Errorf("%w: it was written by %s; open it in Wireshark instead", ErrNoRecords, writer)
}

// isOurs tells from a section's application whether waymark wrote it, if only
// an export.
func isOurs(application string) bool {
	first, _, _ := strings.Cut(application, " ")
	return first == recordingApp
}

// packet delivers what came with a packet.
func (p *replayer) packet(packet *pcapng.Packet) error {
	before := p.packets
	if err := p.options(packet.Custom, packet); err != nil {
		return err
	}
	if p.packets == before {
		p.result.Foreign++
	}
	return nil
}

func (p *replayer) options(options []pcapng.CustomOption, packet *pcapng.Packet) error {
	for i := range options {
		if err := p.payload(options[i].PEN, options[i].Data, packet); err != nil {
			return err
		}
	}
	return nil
}

// assemble puts the raw record together again in p.raw: header and hook's
// part, the packet's bytes, and what else was in the record.
func (p *replayer) assemble(c recordingPayload, frame []byte) error {
	head, want, err := recordParts(c.content)
	if err != nil {
		return err
	}
	p.raw = append(p.raw[:0], c.content[:head]...)
	if c.flags&flagTagAdded != 0 && len(frame) >= vlanAt {
		p.raw = append(p.raw, frame[:vlanAt]...)
		p.raw = append(p.raw, frame[min(vlanAt+vlanTag, len(frame)):]...)
	} else {
		p.raw = append(p.raw, frame...)
	}
	have := len(p.raw) - head
	p.raw = append(p.raw, c.content[head:]...)
	switch {
	case have > want:
		return recordingDamagef("packet of %d bytes, its record says %d", have, want)
	case have < want:
		p.result.Shortened++
		binary.LittleEndian.PutUint16(p.raw[snapLenAt:], uint16(have))
	}
	return nil
}

// payload delivers the content of b, if it is a payload of ours. packet is the
// packet it came with.
func (p *replayer) payload(pen uint32, b []byte, packet *pcapng.Packet) error {
	c, ok, err := parsePayload(pen, b)
	if err != nil || !ok {
		return err
	}
	p.ours = true
	switch c.kind {
	case kindRecord:
		return p.record(c.content)
	case kindPacket:
		if packet == nil {
			return recordingDamagef("record of a packet without the packet")
		}
		p.packets++
		if err := p.assemble(c, packet.Data); err != nil {
			return err
		}
		return p.record(p.raw)
	case kindContextPart, kindContext:
		return p.contextPiece(c)
	}
	return nil // a newer waymark's: the format version decides, not this
}

// maxContext bounds the memory for one context, in bytes.
const maxContext = 256 << 20

func (p *replayer) record(raw []byte) error {
	p.result.Records++
	return p.sink.Record(raw)
}

// contextPiece takes the next piece of a context and delivers it when it was
// the last.
func (p *replayer) contextPiece(c recordingPayload) error {
	last := c.kind == kindContext
	if c.piece == 0 {
		p.closePieces()
		if last {
			return p.context(c.content)
		}
	}
	p.open = true
	if c.piece == p.piece {
		p.piece++
		p.pieces = append(p.pieces, c.content...)
	}
	if len(p.pieces) > maxContext {
		return recordingDamagef("context of more than %d bytes", maxContext)
	}
	if !last {
		return nil
	}
	if p.piece != c.piece+1 { // pieces before it are missing
		p.closePieces()
		return nil
	}
	text := p.pieces
	p.pieces, p.piece, p.open = nil, 0, false
	return p.context(text)
}

// closePieces gives up the context whose pieces came so far.
func (p *replayer) closePieces() {
	if p.open {
		p.result.Missing++
	}
	p.pieces, p.piece, p.open = p.pieces[:0], 0, false
}

func (p *replayer) context(text []byte) error {
	c := &Context{}
	if err := json.Unmarshal(text, c); err != nil {
		return recordingDamagef("context: %v", err)
	}
	if c.Session != nil && c.Session.Format > RecordFormat {
		return fmt.Errorf("%w: it has format %d, this waymark reads up to %d; use waymark %s or newer",
			ErrNewerRecording, c.Session.Format, RecordFormat, c.Session.Version)
	}
	p.result.Contexts++
	p.result.Ended = c.End != nil
	return p.sink.Context(c)
}
