// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"encoding/binary"
	"unsafe"

	"waymark/bpf"
	"waymark/decoder"
)

// stream is the one place where records and context become one sequence:
// whatever a record needs to be understood goes into the sink before it.
type stream struct {
	opts    Options
	session decoder.Session
	sink    decoder.Sink

	places  map[uint32]*told  // by namespace inode
	symbols map[uint64]causes // told, and what explains a loss there
	kernel  kernelNames
	named   map[uint32]bool        // reasons told
	rules   map[netfilterRule]bool // looked for, and told if they were found
	owners  *owners
	rec     bpf.Record
	cut     []byte // a record shortened to the snapshot length asked for
	read    uint64 // boot time: every record from before it was passed on

	// recent holds devices that the sink knows, where most records come from;
	// two maps would be asked otherwise.
	recent [256]deviceKey
}

// kernelNames are the running kernel's names of what records have numbers of.
type kernelNames struct {
	function func(addr uint64) string // function+0xoffset
	reasons  map[uint32]string        // enum skb_drop_reason
}

func newStream(opts Options, s decoder.Session, kernel kernelNames) *stream {
	return &stream{
		opts: opts, session: s, sink: opts.Sink, kernel: kernel,
		places: map[uint32]*told{}, symbols: map[uint64]causes{}, named: map[uint32]bool{},
		rules:  map[netfilterRule]bool{},
		owners: newOwners(),
	}
}

func (s *stream) start() error {
	s.readTo(bootTime())
	return s.context(&decoder.Context{Session: &s.session})
}

// readTo moves the stream's time on.
func (s *stream) readTo(t uint64) { s.read = max(s.read, t) }

// context passes c on with the stream's time, which may lag behind the clock:
// whoever reads must not take records that are still in the ring for missing.
func (s *stream) context(c *decoder.Context) error {
	c.Time = s.read
	return s.sink.Context(c)
}

// record passes one raw record on, after whatever it needs.
func (s *stream) record(raw []byte) error {
	snap, err := s.rec.Decode(raw)
	if err != nil {
		return err
	}
	s.readTo(s.rec.TimeNs)
	if err := s.needs(&s.rec, raw); err != nil {
		return err
	}
	if bpf.Hook(s.rec.Hook) == bpf.HookSocketReceive {
		if err := s.needsOwner(s.rec.Ext(raw)); err != nil {
			return err
		}
	}
	if cut := s.opts.SnapLen; len(snap) > cut {
		// The kernel captured more, to parse; keep what was asked for. The
		// ring is mapped read-only, so the shorter record is a copy.
		s.cut = append(s.cut[:0], raw[:bpf.RecordSize+int(s.rec.ExtLen)+cut]...)
		binary.LittleEndian.PutUint16(s.cut[snapLenOffset:], uint16(cut))
		raw = s.cut
	} else {
		raw = raw[:bpf.RecordSize+int(s.rec.ExtLen)+len(snap)]
	}
	return s.sink.Record(raw)
}

const snapLenOffset = unsafe.Offsetof(bpf.Record{}.SnapLen)

func (s *stream) needs(r *bpf.Record, raw []byte) error {
	key := deviceKey{r.Netns, r.Ifindex}
	slot := &s.recent[(r.Netns*31+r.Ifindex)%uint32(len(s.recent))]
	if *slot != key {
		if err := s.needsPlace(r); err != nil {
			return err
		}
		*slot = key
	}
	if r.Location != 0 {
		if err := s.needsSymbol(r.Location); err != nil {
			return err
		}
		cause := s.symbols[r.Location]
		if cause&byQueue != 0 {
			if err := s.refreshQueue(r); err != nil {
				return err
			}
		}
		if cause&(byChain|byTable|byService) != 0 && bpf.Hook(r.Hook) == bpf.HookKfreeSkb {
			if err := s.refreshLost(r.Netns, r.TimeNs, cause); err != nil {
				return err
			}
		}
	}
	if bpf.Hook(r.Hook) == bpf.HookKfreeSkb && r.ExtLen > 0 {
		for _, addr := range bpf.Stack(r.Ext(raw)) {
			if err := s.needsSymbol(addr); err != nil {
				return err
			}
		}
	}
	if bpf.Hook(r.Hook) == bpf.HookNFTChain {
		return s.needsRule(r, raw)
	}
	if bpf.Hook(r.Hook) == bpf.HookConnect {
		return s.refreshLost(r.Netns, r.TimeNs, byTable)
	}
	if bpf.Hook(r.Hook) == bpf.HookKfreeSkb && !s.named[r.Reason] {
		s.named[r.Reason] = true
		if name := s.kernel.reasons[r.Reason]; name != "" {
			return s.context(&decoder.Context{Reason: &decoder.Reason{Number: r.Reason, Name: name}})
		}
	}
	return nil
}

// needsSymbol tells the sink what the kernel calls an address.
func (s *stream) needsSymbol(addr uint64) error {
	if _, told := s.symbols[addr]; told {
		return nil
	}
	name := s.kernel.function(addr)
	s.symbols[addr] = causesAt(name)
	return s.context(&decoder.Context{Symbol: &decoder.Symbol{Addr: addr, Name: name}})
}

// needsPlace tells the sink of the namespace and the device of a record.
func (s *stream) needsPlace(r *bpf.Record) error {
	if t := s.places[r.Netns]; t == nil || !t.active {
		if err := s.activate(r.Netns); err != nil {
			return err
		}
	} else if _, known := t.devices[r.Ifindex]; !known && r.Ifindex != 0 {
		if err := s.reread(t); err != nil {
			return err
		}
	}
	return nil
}
