// SPDX-License-Identifier: Apache-2.0

// Which journey a packet of a recording belongs to.

package decoder

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"strings"

	"waymark/decoder/pcapng"
)

// journeyFinder finds the journeys of packets that come in the order of time. It
// keeps those of the moment.
type journeyFinder struct {
	next   func() (Told, bool)
	stop   func()
	head   Told // the next one, not looked at yet
	at     WallTime
	more   bool // there is a head
	text   *TextWriter
	trails map[trailOf][]*foundJourney
	looked int // packets since old journeys were forgotten
}

// trailOf is a trail of one node.
type trailOf struct {
	node  string
	trail uint64
}

// foundJourney is what is kept of a journey.
type foundJourney struct {
	id, flow string
	how      string // it ended
	from, to WallTime
	lines    []foundLine // those with a place, in their order
	after    []string    // because, advice, notes
	told     int         // lines that packets have told
}

type foundLine struct {
	at     WallTime
	trail  uint64
	what   string
	device bool
	said   bool // by the packet's own comment
}

// afterEnd is how long behind its last hop a packet may still be recorded: where
// it is freed.
const afterEnd = WallTime(5e8)

// notNow is the time of what is told when the packet at hand cannot wait for more.
const notNow = WallTime(math.MaxInt64)

// newJourneyFinder takes what the recording tells, in the order of time.
func newJourneyFinder(told iter.Seq[Told]) *journeyFinder {
	f := &journeyFinder{trails: map[trailOf][]*foundJourney{}, text: NewTextWriter(nil, TextOptions{})}
	f.next, f.stop = iter.Pull(told)
	f.advance()
	return f
}

func (f *journeyFinder) advance() {
	for {
		f.head, f.more = f.next()
		switch {
		case f.head.Journey != nil:
			f.at = f.head.Journey.Start
		case f.head.Clock != 0:
			f.at = f.head.from
		case f.more:
			continue
		}
		return
	}
}

// find is the journey of p, nil if it has none.
func (f *journeyFinder) find(p *pcapng.Packet, iface *pcapng.Interface) *foundJourney {
	now := WallTime(iface.Time(p.Time).UnixNano())
	if f.at == notNow {
		f.advance()
	}
	for f.more && f.at <= now {
		if f.head.Journey != nil {
			f.add(f.head.Journey)
		}
		f.advance()
	}
	if f.looked++; f.looked == 4096 {
		f.looked = 0
		f.forget(now)
	}
	if !p.HasID {
		return nil
	}
	var found *foundJourney
	for _, j := range f.trails[trailOf{describedNode(iface.Description), p.PacketID}] {
		if j.from <= now && now <= j.to+afterEnd {
			found = j // the latest part of one that is told in parts
		}
	}
	return found
}

func (f *journeyFinder) add(j *Journey) {
	found := &foundJourney{id: j.ID, flow: j.Flow, from: j.Start, to: j.Start + WallTime(j.DurationNs)}
	trails := map[uint64]bool{j.seq.trail: true}
	for _, l := range f.text.journeyLines(j) {
		if l.box == "" {
			found.after = append(found.after, l.what)
			continue
		}
		line := foundLine{at: j.Start + WallTime(l.t), trail: cmp.Or(l.trail, j.seq.trail), what: l.what}
		line.device = strings.HasPrefix(l.kind, GroupDevice+"/")
		bare := line.device && (l.what == "enters" || l.what == "leaves")
		line.said = l.kind == lineEnd || bare && l.mark == ""
		switch {
		case bare:
			line.what = l.mark
		case l.mark != "":
			line.what += ", " + l.mark
		}
		if l.kind == lineEnd {
			found.how = l.what
		}
		found.lines = append(found.lines, line)
		trails[line.trail] = true
	}
	for t := range trails {
		of := trailOf{j.Node, t}
		f.trails[of] = append(f.trails[of], found)
	}
}

// forget gives up journeys that no packet can belong to any more.
func (f *journeyFinder) forget(now WallTime) {
	for of, list := range f.trails {
		keep := list[:0]
		for _, j := range list {
			if now <= j.to+afterEnd {
				keep = append(keep, j)
			}
		}
		if len(keep) == 0 {
			delete(f.trails, of)
		} else {
			f.trails[of] = keep
		}
	}
}

// comments adds to dst, for p, which hop of the journey it is, how that ended, and
// what was decided since the packet before.
func (j *foundJourney) comments(dst [][]byte, p *pcapng.Packet, iface *pcapng.Interface) [][]byte {
	now := WallTime(iface.Time(p.Time).UnixNano())
	hop := -1
	for i := range j.lines {
		if l := &j.lines[i]; l.at == now && l.trail == p.PacketID && (hop < 0 || l.device) {
			hop = i
		}
	}
	head := "journey " + j.id
	if hop >= 0 {
		head += fmt.Sprintf(", hop %d of %d", hop+1, len(j.lines))
	}
	dst = append(dst, []byte(head+": "+j.how))
	for ; j.told < len(j.lines) && j.lines[j.told].at <= now; j.told++ {
		if l := &j.lines[j.told]; !l.said {
			dst = append(dst, []byte(l.what))
		}
	}
	if now >= j.to {
		for _, a := range j.after {
			dst = append(dst, []byte(a))
		}
		j.after = nil
	}
	return dst
}
