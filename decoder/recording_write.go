// SPDX-License-Identifier: Apache-2.0

// Recorder: a Sink that writes the stream to a pcapng file, losslessly and in
// its order.

package decoder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"waymark/bpf"
	"waymark/decoder/pcapng"
)

// RecorderOptions are choices of a Recorder. The zero value is right for a
// file.
type RecorderOptions struct {
	// Buffer is how many bytes are gathered before a write; 0: 64 KiB.
	Buffer int
	// FlushAfter bounds how much of the stream's time may be gathered before
	// a write; 0: 250 ms. It is the stream's own clock: records and contexts
	// (the Clock context, when nothing else comes) move it.
	FlushAfter time.Duration
	// NoBytes says that packets have no bytes in this stream (PayloadOff): their
	// records are written as packets of which none were captured, so that other
	// programs show them.
	NoBytes bool
}

// RecorderStats counts what was recorded.
type RecorderStats struct {
	Records    uint64
	Contexts   uint64
	Interfaces int
	Bytes      int64 // length of the file so far, including what is gathered
}

// Recorder writes a recording. Every write(2) ends at a block, so a recording
// that is cut off by a crash is whole up to its last write. After an error the
// recording is over: every later call returns it. Not for concurrent use.
type Recorder struct {
	out        *pcapng.Writer
	flushAfter uint64 // ns
	noBytes    bool
	flushedAt  uint64 // ns of the stream's clock

	nodes      map[string]*recordedNames
	now        *recordedNames // of the session that records belong to
	wallOffset int64
	snapLen    int

	places    map[recordedPlaceID]*recordedPlace // by what a record says
	described map[string]*recordedPlace          // by what the interface block says
	lastID    recordedPlaceID
	last      *recordedPlace
	inOrder   []*recordedPlace

	held        held
	firstDevice *Device // may carry what is held before the first packet
	streamTime  uint64  // of the last record or context, boot clock ns

	record  bpf.Record
	packet  pcapng.Packet
	frame   []byte // packet with its VLAN tag put back
	comment []byte
	stats   RecorderStats
	started bool
	err     error
}

// NewRecorder returns a Recorder to out. The file begins with the first record
// or context; the caller closes the Recorder, then out.
func NewRecorder(out io.Writer, o RecorderOptions) *Recorder {
	if o.FlushAfter <= 0 {
		o.FlushAfter = 250 * time.Millisecond
	}
	first := newRecordedNames()
	return &Recorder{
		out:        pcapng.NewWriter(out, o.Buffer),
		flushAfter: uint64(o.FlushAfter),
		noBytes:    o.NoBytes,
		nodes:      map[string]*recordedNames{"": first},
		now:        first,
		places:     map[recordedPlaceID]*recordedPlace{},
		described:  map[string]*recordedPlace{},
		packet: pcapng.Packet{
			Comments: make([][]byte, 1),
		},
	}
}

// Record writes one raw kernel record. One that is shorter than its own
// lengths say is kept as it is, without a packet for Wireshark.
func (r *Recorder) Record(raw []byte) error {
	if r.err == nil {
		r.err = r.writeRecord(raw)
	}
	return r.err
}

func (r *Recorder) writeRecord(raw []byte) error {
	if err := r.start(nil, nil); err != nil {
		return err
	}
	r.stats.Records++
	snapshot, err := r.record.Decode(raw)
	switch {
	case len(raw)-len(snapshot) > maxContent:
		err = r.writeBlock(recordingHeader{kind: kindRecord}, raw)
	case err != nil, len(snapshot) == 0 && !(r.noBytes && r.record.Len > 0):
		err = r.hold(recordingHeader{kind: kindRecord}, raw, nil)
	default:
		err = r.writePacket(raw, snapshot)
	}
	if err != nil {
		return err
	}
	return r.clock(r.record.TimeNs)
}

// writePacket writes r.record, decoded from raw, as a packet.
func (r *Recorder) writePacket(raw, snapshot []byte) error {
	at, err := r.place(len(snapshot))
	if err != nil {
		return err
	}
	frame, flags := r.tagged(snapshot)
	head := bpf.RecordSize + int(r.record.ExtLen)
	if err := r.hold(recordingHeader{kind: kindPacket, flags: flags}, raw[:head], raw[head+len(snapshot):]); err != nil {
		return err
	}
	r.comment = r.now.appendSentence(r.comment[:0], &r.record, r.record.Ext(raw), at.name)

	p := &r.packet
	p.Interface = at.number
	p.Time = r.record.TimeNs + uint64(r.wallOffset)
	p.Data = frame
	p.OrigLen = wireLength(&r.record, snapshot) + uint32(len(frame)-len(snapshot))
	p.Flags = packetDirection(&r.record)
	p.PacketID, p.HasID = r.record.Trail, r.record.Trail != 0
	p.HasQueue = false
	if bpf.Hook(r.record.Hook) == bpf.HookQueueEnter {
		if q, err := bpf.DecodeExt[bpf.QueueExt](r.record.Ext(raw)); err == nil {
			p.Queue, p.HasQueue = uint32(q.Queue), true
		}
	}
	p.Comments[0] = r.comment
	p.Custom = r.held.options()
	if err := r.out.Packet(p); err != nil {
		return fmt.Errorf("write recording: %w", err)
	}
	r.held.reset()
	at.count(p.Time)
	return nil
}

// tagged is snapshot as it was on the wire; flags tell whether that differs.
func (r *Recorder) tagged(snapshot []byte) (frame []byte, flags byte) {
	if !hasTagBeside(&r.record, snapshot) {
		return snapshot, 0
	}
	r.frame = appendTagged(r.frame[:0], &r.record, snapshot)
	return r.frame, flagTagAdded
}

// hasTagBeside tells whether the kernel keeps a VLAN tag beside the packet.
func hasTagBeside(r *bpf.Record, snapshot []byte) bool {
	return r.Flags&bpf.FlagVLAN != 0 && r.Flags&bpf.FlagL3 == 0 && len(snapshot) >= vlanAt
}

// appendTagged adds snapshot with that tag put back to where it is on the wire.
func appendTagged(dst []byte, r *bpf.Record, snapshot []byte) []byte {
	tci := r.VlanTci
	dst = append(dst, snapshot[:vlanAt]...)
	dst = append(dst, 0x81, 0x00, byte(tci>>8), byte(tci)) // 802.1Q
	return append(dst, snapshot[vlanAt:]...)
}

// Context writes c, and uses it for the names of interfaces and places from
// here on. A session's context is on disk when Context returns.
func (r *Recorder) Context(c *Context) error {
	if r.err == nil {
		r.err = r.writeContext(c)
	}
	return r.err
}

func (r *Recorder) writeContext(c *Context) error {
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("write context: %w", err)
	}
	r.learn(c)
	r.stats.Contexts++
	if !r.started && c.Session != nil && len(text) <= maxContent {
		if err := r.start(c.Session, text); err != nil {
			return err
		}
		return r.flush()
	}
	if err := r.start(nil, nil); err != nil {
		return err
	}
	piece := uint16(0)
	for ; len(text) > maxContent; piece++ {
		if err := r.hold(recordingHeader{kind: kindContextPart, piece: piece}, text[:maxContent], nil); err != nil {
			return err
		}
		text = text[maxContent:]
	}
	if err := r.hold(recordingHeader{kind: kindContext, piece: piece}, text, nil); err != nil {
		return err
	}
	// Before the first packet there is none that time could end.
	r.held.tells = r.held.tells || c.Session != nil || c.Loss != nil || c.Budget != nil || c.End != nil || len(r.inOrder) > 0
	if c.Session != nil {
		return r.flush()
	}
	if c.Time == 0 {
		return nil
	}
	return r.clock(c.Time)
}

// learn takes from c what interfaces and places are called.
func (r *Recorder) learn(c *Context) {
	if c.Device != nil && r.firstDevice == nil {
		r.firstDevice = c.Device
	}
	switch {
	case c.Session != nil:
		r.session(c.Session)
	case !r.now.learn(c):
		return
	}
	clear(r.places)
	r.last = nil
}

// session switches to the node and the options of s.
func (r *Recorder) session(s *Session) {
	n := r.nodes[s.Node]
	if n == nil {
		n = newRecordedNames()
		r.nodes[s.Node] = n
	}
	n.node, n.kernel = s.Node, s.Kernel
	r.now, r.wallOffset, r.snapLen = n, s.WallOffset, s.SnapLen
}

// start writes the section header once, with the session whose context is
// text.
func (r *Recorder) start(s *Session, text []byte) error {
	if r.started {
		return nil
	}
	r.started = true
	section := pcapng.Section{Application: recordingApp}
	if s != nil {
		section.Application += " " + s.Version
		section.OS = "Linux " + s.Kernel
		p := append(appendPayloadHead(nil, recordingHeader{kind: kindContext}, len(text)), text...)
		section.Custom = []pcapng.CustomOption{{PEN: recordingPEN, Data: p}}
	}
	if err := r.out.Section(&section); err != nil {
		return fmt.Errorf("start recording: %w", err)
	}
	return nil
}

// clock writes out what was gathered if the stream's time has moved far
// enough. Nodes have clocks of their own, so back counts as well as forth.
func (r *Recorder) clock(now uint64) error {
	r.streamTime = now
	if max(now, r.flushedAt)-min(now, r.flushedAt) < r.flushAfter {
		return nil
	}
	r.flushedAt = now
	return r.flush()
}

// Flush writes out what was gathered. The stream's clock calls it too, see
// RecorderOptions.
func (r *Recorder) Flush() error {
	if r.err == nil {
		r.err = r.flush()
	}
	return r.err
}

func (r *Recorder) flush() error {
	if err := r.release(false); err != nil {
		return err
	}
	if err := r.out.Flush(); err != nil {
		return fmt.Errorf("write recording: %w", err)
	}
	return nil
}

// Close ends the recording with the statistics of its interfaces and writes
// out what was gathered. It does not close the file. Closing again does
// nothing.
func (r *Recorder) Close() error {
	switch {
	case errors.Is(r.err, errRecorderClosed):
		return nil
	case r.err == nil:
		r.err = r.finish()
	}
	if r.err != nil {
		return r.err
	}
	r.err = errRecorderClosed
	return nil
}

func (r *Recorder) finish() error {
	if err := r.start(nil, nil); err != nil {
		return err
	}
	if _, err := r.carrier(); err != nil {
		return err
	}
	for i, at := range r.inOrder {
		s := pcapng.Statistics{Interface: at.number, Time: at.last, Start: at.first, End: at.last, Delivered: at.packets}
		if i == 0 {
			s.Custom = r.held.options()
		}
		if err := r.out.Statistics(&s); err != nil {
			return fmt.Errorf("end recording: %w", err)
		}
		r.held.reset()
	}
	if err := r.release(true); err != nil {
		return err
	}
	return r.flush()
}

var errRecorderClosed = errors.New("recording is closed")

// Stats counts what was recorded so far.
func (r *Recorder) Stats() RecorderStats {
	s := r.stats
	s.Interfaces = len(r.inOrder)
	s.Bytes = r.out.Size()
	return s
}

// packetDirection is the epb_flags value of the record.
func packetDirection(r *bpf.Record) uint32 {
	switch bpf.Hook(r.Hook) {
	case bpf.HookTCIngress:
		return pcapng.FlagInbound
	case bpf.HookTCEgress:
		return pcapng.FlagOutbound
	}
	return 0
}
