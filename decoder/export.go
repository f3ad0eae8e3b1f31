// SPDX-License-Identifier: Apache-2.0

// Export: a recording's packets as plain captures, one per device, as if
// somebody had run a capture program on each of them, or one per flow.

package decoder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"waymark/bpf"
	"waymark/decoder/pcapng"
)

// ExportFormat is a capture file format.
type ExportFormat string

// The formats.
const (
	ExportPcapng ExportFormat = "pcapng"
	ExportPcap   ExportFormat = "pcap" // classic, with nanoseconds; no comments
)

// ExportOptions say what goes to which file.
type ExportOptions struct {
	Format ExportFormat
	// Flows, if it is set, is what Merge gives of the same recording: there is
	// then one file for each flow, with the packets of its journeys at every
	// device they passed, and no file for packets that have no journey in it.
	Flows iter.Seq[Told]
}

// exportFlows is how many flows have a file at most: each is an open file.
const exportFlows = 1000

// ErrManyFlows says that there would be too many files.
var ErrManyFlows = fmt.Errorf("more than %d flows: choose some with a filter", exportFlows)

// ExportFile names one file of an export.
type ExportFile struct {
	Format  ExportFormat
	Node    string // node name, empty if not known
	Name    string // NETNS/DEV, or the flow
	Dropped bool   // the packets that died here, not those that passed
	// L3 says that the packets have no link header. A pcapng file can hold
	// both kinds, so it is set for classic pcap only.
	L3 bool
}

// FileName is a name for the file, without a directory: NETNS-DEV or the flow's
// PROTO-SRC-DST, then "dropped" and "l3" where it applies, then the format.
func (f ExportFile) FileName() string {
	name := strings.Map(func(c rune) rune {
		switch {
		case c <= ' ', c == 0x7f, strings.ContainsRune(`/\:*?"<>|[]`, c):
			return '-'
		}
		return c
	}, f.Name)
	name = strings.Trim(name, "-.")
	if name == "" {
		name = "unknown"
	}
	if f.Dropped {
		name += ".dropped"
	}
	if f.L3 {
		name += ".l3"
	}
	return name + "." + string(f.Format)
}

// ExportResult says what an export wrote.
type ExportResult struct {
	Files   int
	Packets uint64
	// Skipped counts records with packet bytes that are in no file because
	// they would only repeat a packet, copies and frees, or have no flow.
	Skipped   uint64
	Truncated bool // the recording is cut off, see ReplayResult
}

// Export writes the packets of the recording in to one file per device, and
// one more per device for the packets that were dropped there, or to one file per
// flow. open is called for each file when its first packet comes; Export closes
// what it opened.
func Export(in io.Reader, o ExportOptions, open func(ExportFile) (io.WriteCloser, error)) (ExportResult, error) {
	if o.Format != ExportPcap && o.Format != ExportPcapng {
		return ExportResult{}, fmt.Errorf("unknown format %q: use pcap or pcapng", o.Format)
	}
	e := exporter{
		in: pcapng.NewReader(in), format: o.Format, open: open,
		files: map[ExportFile]*exportFile{},
	}
	if o.Flows != nil {
		e.finder = newJourneyFinder(o.Flows)
		defer e.finder.stop()
	}
	err := e.run()
	for _, f := range e.files {
		err = errors.Join(err, f.close())
	}
	return e.result, err
}

type exporter struct {
	in     *pcapng.Reader
	format ExportFormat
	open   func(ExportFile) (io.WriteCloser, error)
	files  map[ExportFile]*exportFile
	finder *journeyFinder // nil: by device
	result ExportResult
	writer string // the last section's application

	ours, foreign bool // packets of waymark's and others were seen
}

func (e *exporter) run() error {
	for {
		b, err := e.in.Next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, pcapng.ErrTruncated):
			e.result.Truncated = errors.Is(err, pcapng.ErrTruncated)
			if e.ours || !e.foreign && isOurs(e.writer) {
				return nil
			}
			return noRecords(e.writer)
		case errors.Is(err, pcapng.ErrNotPcapng):
			return fmt.Errorf("%w; give a file that `waymark record` wrote", err)
		case err != nil:
			return err
		case b.Section != nil:
			e.writer = b.Section.Application
			e.newSection()
		case b.Packet != nil:
			if err := e.packet(b.Packet); err != nil {
				return err
			}
		}
	}
}

// newSection forgets what number an interface has in which file: numbers
// begin again.
func (e *exporter) newSection() {
	for _, f := range e.files {
		clear(f.numbers)
	}
}

func (e *exporter) packet(p *pcapng.Packet) error {
	hook, ok := e.hook(p)
	if !ok {
		e.foreign = true
		return nil
	}
	e.ours = true
	iface := e.in.Interfaces()[p.Interface]
	id := ExportFile{Format: e.format, Node: describedNode(iface.Description), Name: iface.Name}
	switch hook {
	case bpf.HookTCIngress, bpf.HookTCEgress:
	case bpf.HookKfreeSkb:
		id.Dropped = true
	default:
		e.result.Skipped++
		return nil
	}
	if e.finder != nil {
		j := e.finder.find(p, iface)
		if j == nil || j.flow == "" {
			e.result.Skipped++
			return nil
		}
		id.Node, id.Name, id.Dropped = "", j.flow, false
	}
	id.L3 = e.format == ExportPcap && iface.LinkType == pcapng.LinkRaw
	f := e.files[id]
	if f == nil {
		if e.finder != nil && len(e.files) == exportFlows {
			return ErrManyFlows
		}
		var err error
		if f, err = e.create(id); err != nil {
			return err
		}
		e.files[id] = f
		e.result.Files++
	}
	if err := f.write(p, iface); err != nil {
		return fmt.Errorf("export %s: %w", iface.Name, err)
	}
	e.result.Packets++
	return nil
}

// hook tells which hook recorded p; ok is false if it is no packet of ours.
func (e *exporter) hook(p *pcapng.Packet) (hook bpf.Hook, ok bool) {
	for i := range p.Custom {
		c, ok, err := parsePayload(p.Custom[i].PEN, p.Custom[i].Data)
		if ok && err == nil && c.kind == kindPacket && len(c.content) >= bpf.RecordSize {
			return bpf.Hook(binary.LittleEndian.Uint16(c.content[hookAt:])), true
		}
	}
	return 0, false
}

func (e *exporter) create(id ExportFile) (*exportFile, error) {
	out, err := e.open(id)
	if err != nil {
		return nil, fmt.Errorf("export %s: %w", id.Name, err)
	}
	f := &exportFile{out: out, numbers: map[int]int{}}
	if id.Format == ExportPcapng {
		f.ng = pcapng.NewWriter(out, 0)
		if err := f.ng.Section(&pcapng.Section{Application: recordingApp + " export"}); err != nil {
			return nil, errors.Join(err, out.Close())
		}
		return f, nil
	}
	f.classic = newPcapWriter(out)
	return f, nil
}

// exportFile is one file being written.
type exportFile struct {
	out     io.WriteCloser
	ng      *pcapng.Writer
	classic *pcapWriter
	numbers map[int]int // interface numbers, in the recording and here
}

func (f *exportFile) write(p *pcapng.Packet, iface *pcapng.Interface) error {
	if f.classic != nil {
		return f.classic.packet(iface, p)
	}
	number, ok := f.numbers[p.Interface]
	if !ok {
		var err error
		if number, err = f.ng.Interface(iface); err != nil {
			return err
		}
		f.numbers[p.Interface] = number
	}
	plain := *p
	plain.Interface, plain.Custom = number, nil
	return f.ng.Packet(&plain)
}

func (f *exportFile) close() error {
	flush := f.classic.flush
	if f.ng != nil {
		flush = f.ng.Flush
	}
	return errors.Join(flush(), f.out.Close())
}

// describedNode is the node in an interface's description.
func describedNode(description string) string {
	rest, ok := strings.CutPrefix(description, "node ")
	if !ok {
		return ""
	}
	node, _, _ := strings.Cut(rest, ",")
	if node == "-" {
		return ""
	}
	return node
}
