// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Bounds of what is told of drops, so that a flood of any kind stays readable
// and takes a bounded memory.
const (
	maxDropKinds  = 4096             // told apart at a time; drops of more are counted as others
	maxDropFirsts = 20               // shown in full in a second
	maxDropLines  = 20               // of repeats in a second; the rest are in one more
	dropSecond    = time.Second      // how often repeats are told
	dropQuiet     = 10 * time.Second // a kind that comes back after that is shown in full again
)

// DropCount is drops of one kind: those of one place, kernel function, reason
// and explanation, that go from one address to one address and port. Not all
// of one connection: a client has a new port each time.
type DropCount struct {
	Type    string    `json:"type,omitempty"` // "drops"; empty in a DropTable
	Time    WallTime  `json:"time,omitzero"`  // end of the time that was counted in; empty in a DropTable
	Node    string    `json:"node,omitempty"`
	Netns   string    `json:"netns,omitempty"`
	Pod     string    `json:"pod,omitempty"`
	Dev     string    `json:"dev,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	At      string    `json:"at,omitempty"` // function, without offset
	Packet  *DropEnds `json:"packet,omitempty"`
	Because string    `json:"because,omitempty"`
	Normal  string    `json:"normal,omitempty"` // why it is no loss
	Others  bool      `json:"others,omitempty"` // the sum of kinds that have no line of their own
	Count   uint64    `json:"count"`            // since the last such line, or since the drop that was shown; in a DropTable all
	Seconds float64   `json:"seconds"`          // of stream time that Count was counted in
	Rate    float64   `json:"rate,omitempty"`   // per second; omitted if the time was too short to tell
	Total   uint64    `json:"total,omitempty"`  // all so far, those shown among them; empty in a DropTable
	Since   WallTime  `json:"since,omitzero"`   // the first one
	Last    WallTime  `json:"last,omitzero"`    // the latest one
}

// DropEnds is what the packets of one kind of drop have in common.
type DropEnds struct {
	Proto string     `json:"proto"`
	Src   netip.Addr `json:"src,omitzero"`
	Dst   netip.Addr `json:"dst,omitzero"`
	DPort uint16     `json:"dport,omitempty"`
}

// NormalCount is how many packets were freed as drops in normal use, by why
// that is no loss.
type NormalCount struct {
	Why   string `json:"why"`
	Count uint64 `json:"count"`
}

// DropTable is all drops so far.
type DropTable struct {
	Type    string        `json:"type"` // "drop_totals"
	Time    WallTime      `json:"time"`
	Seconds float64       `json:"seconds"` // of stream time
	Drops   uint64        `json:"drops"`
	Kinds   []DropCount   `json:"kinds,omitempty"`
	Normal  []NormalCount `json:"normal,omitempty"`
}

// DropKindsOptions are the readers of a DropKinds, each of which may be nil.
type DropKindsOptions struct {
	// First gets what is shown in full: the first drop of a kind, and the next
	// one after a quiet time.
	First func(*Drop)
	// Repeats gets the others as counts, once per second and kind at most.
	Repeats func(*DropCount)
	// Second is called once per second of the stream, after Repeats.
	Second func()
	// Each gives First every drop, and Repeats none.
	Each bool
	// All makes kinds of what is normal as well, instead of only counting it.
	All bool
}

// DropKinds puts drops together that are the same to a reader. Its clock is
// the stream's. It is not safe for concurrent use.
type DropKinds struct {
	opt    DropKindsOptions
	began  WallTime // first time told
	now    WallTime
	from   WallTime // start of the second that is being counted
	drops  uint64
	normal map[string]uint64

	kinds  map[dropKey]*dropKind
	newest *dropKind // of those told apart, by their latest drop
	oldest *dropKind
	others dropTally
	count  uint64 // kinds that ever were
	firsts int    // shown in this second
	active []*dropKind
}

// dropKey is what drops of one kind have in common.
type dropKey struct {
	node             string
	netns, pod, dev  string
	reason, function string
	because, normal  string
	proto            string
	src, dst         netip.Addr
	dport            uint16
}

// dropTally counts drops that are told together.
type dropTally struct {
	total       uint64
	fresh       uint64   // not told yet
	from        WallTime // stream time from which fresh was counted
	counted     uint64   // in this second
	rate        float64  // in the last second that was whole
	since, last WallTime // first and latest drop
}

type dropKind struct {
	dropTally
	key          dropKey
	number       uint64   // in the order they came
	seen         WallTime // stream time of the latest drop
	shown        bool
	newer, older *dropKind
}

// NewDropKinds returns one that has seen nothing.
func NewDropKinds(o DropKindsOptions) *DropKinds {
	return &DropKinds{opt: o, normal: map[string]uint64{}, kinds: map[dropKey]*dropKind{}}
}

// Add counts a drop, or with Normal set a packet that was freed in normal use.
// It allocates nothing for a kind that is known.
func (k *DropKinds) Add(d *Drop) {
	k.Clock(d.Time)
	if d.Normal == "" {
		k.drops += 1 + d.more
	} else {
		k.normal[d.Normal] += 1 + d.more
		if !k.opt.All {
			return
		}
	}
	n := k.kind(d)
	if n == nil {
		k.others.add(d, k.from)
		if k.opt.Each {
			k.show(d)
		}
		return
	}
	quiet := n.seen
	n.seen = k.now
	k.touch(n)
	n.add(d, max(n.from, k.from))
	if k.opt.Each {
		n.shown = true
		k.show(d)
		return
	}
	if (!n.shown || k.now-quiet >= WallTime(dropQuiet)) && k.firsts < maxDropFirsts {
		n.shown = true
		n.fresh--
		if n.fresh == 0 {
			n.from = k.now
		}
		k.firsts++
		k.show(d)
	}
}

func (k *DropKinds) show(d *Drop) {
	if k.opt.First != nil {
		k.opt.First(d)
	}
}

func (t *dropTally) add(d *Drop, from WallTime) {
	if t.fresh == 0 {
		t.from = from
	}
	if t.total == 0 {
		t.since = d.Time
	}
	t.total += 1 + d.more
	t.fresh += 1 + d.more
	t.counted += 1 + d.more
	t.since, t.last = min(t.since, d.Time), max(t.last, d.Time)
}

// kind finds or makes the drop's kind. Of too many the one that was quiet for
// longest becomes one of the others; nil: none was, this drop is.
func (k *DropKinds) kind(d *Drop) *dropKind {
	key := dropKey{node: d.Node, netns: d.Netns, pod: d.Pod, dev: d.Dev, reason: d.Reason, function: function(d.At), because: d.Because, normal: d.Normal}
	if p := d.Packet; p != nil {
		key.proto, key.src, key.dst, key.dport = p.Proto, p.Src, p.Dst, p.DPort
	}
	if n := k.kinds[key]; n != nil {
		return n
	}
	var n *dropKind
	if len(k.kinds) >= maxDropKinds {
		n = k.oldest
		if n.seen >= k.from {
			return nil
		}
		k.others.take(&n.dropTally)
		k.unlink(n)
		delete(k.kinds, n.key)
	} else {
		n = new(dropKind)
	}
	*n = dropKind{key: key, number: k.count, seen: k.now}
	k.count++
	k.kinds[key] = n
	k.link(n)
	return n
}

// take adds what was told of another tally.
func (t *dropTally) take(o *dropTally) {
	if t.total == 0 {
		t.since = o.since
	}
	t.total += o.total
	t.since, t.last = min(t.since, o.since), max(t.last, o.last)
}

func (k *DropKinds) touch(n *dropKind) {
	if k.newest != n {
		k.unlink(n)
		k.link(n)
	}
}

func (k *DropKinds) link(n *dropKind) {
	n.older, n.newer = k.newest, nil
	if k.newest != nil {
		k.newest.newer = n
	} else {
		k.oldest = n
	}
	k.newest = n
}

func (k *DropKinds) unlink(n *dropKind) {
	if n.newer != nil {
		n.newer.older = n.older
	} else {
		k.newest = n.older
	}
	if n.older != nil {
		n.older.newer = n.newer
	} else {
		k.oldest = n.newer
	}
}

// Clock moves the time on and tells what is due. Time never goes back.
func (k *DropKinds) Clock(t WallTime) {
	if k.began == 0 {
		k.began, k.now, k.from = t, t, t
		return
	}
	k.now = max(k.now, t)
	if k.now-k.from >= WallTime(dropSecond) {
		k.tell()
	}
}

// Finish tells what is not told yet: the stream is over at t.
func (k *DropKinds) Finish(t WallTime) {
	k.Clock(t)
	k.tell()
}

// tell gives out the repeats of the second that ends now.
func (k *DropKinds) tell() {
	whole := k.now-k.from >= WallTime(dropSecond) // the last one of a stream need not be
	k.active = k.active[:0]
	for n := k.newest; n != nil; n = n.older {
		if whole {
			n.rate = perSecond(n.counted, k.now-k.from)
			n.counted = 0
		}
		if n.fresh > 0 {
			k.active = append(k.active, n)
		}
	}
	if whole {
		k.others.rate = perSecond(k.others.counted, k.now-k.from)
		k.others.counted = 0
	}
	if k.opt.Repeats != nil && !k.opt.Each {
		k.repeats()
	}
	for _, n := range k.active {
		n.fresh, n.from = 0, k.now
	}
	k.others.fresh = 0
	k.from, k.firsts = k.now, 0
	if k.opt.Second != nil {
		k.opt.Second()
	}
}

// repeats hands out the counts, the greatest first.
func (k *DropKinds) repeats() {
	slices.SortFunc(k.active, func(a, b *dropKind) int {
		return cmp.Or(cmp.Compare(b.fresh, a.fresh), cmp.Compare(a.number, b.number))
	})
	rest := k.others
	for i, n := range k.active {
		if i < maxDropLines {
			c := n.count(n.fresh, k.now-n.from, perSecond(n.fresh, k.now-n.from))
			c.Type, c.Time, c.Total = "drops", k.now, n.total
			k.opt.Repeats(&c)
			continue
		}
		if rest.fresh == 0 {
			rest.from, rest.since = n.from, n.since
		}
		rest.fresh += n.fresh
		rest.from, rest.since, rest.last = min(rest.from, n.from), min(rest.since, n.since), max(rest.last, n.last)
	}
	if rest.fresh > 0 {
		c := DropCount{
			Type: "drops", Time: k.now, Others: true, Count: rest.fresh, Seconds: seconds(k.now - rest.from),
			Rate: perSecond(rest.fresh, k.now-rest.from), Since: rest.since, Last: rest.last,
		}
		k.opt.Repeats(&c)
	}
}

// count is n as a line of output.
func (n *dropKind) count(count uint64, in WallTime, rate float64) DropCount {
	c := DropCount{
		Node: n.key.node, Netns: n.key.netns, Pod: n.key.pod, Dev: n.key.dev, Reason: n.key.reason, At: n.key.function,
		Because: n.key.because, Normal: n.key.normal,
		Count: count, Seconds: seconds(in), Rate: rate, Since: n.since, Last: n.last,
	}
	if n.key.proto != "" {
		c.Packet = &DropEnds{Proto: n.key.proto, Src: n.key.src, Dst: n.key.dst, DPort: n.key.dport}
	}
	return c
}

// Top is the table of the kinds with the greatest rates in the last second, n
// at most; the rest are one row of others.
func (k *DropKinds) Top(n int) *DropTable {
	return k.table(n, func(a, b *dropKind) int {
		return cmp.Or(cmp.Compare(b.rate, a.rate), cmp.Compare(b.total, a.total), cmp.Compare(a.number, b.number))
	}, func(t *dropTally) float64 { return t.rate })
}

// Totals is the table of the kinds with the greatest counts, n at most, and
// their rates over the whole time.
func (k *DropKinds) Totals(n int) *DropTable {
	return k.table(n, func(a, b *dropKind) int {
		return cmp.Or(cmp.Compare(b.total, a.total), cmp.Compare(a.number, b.number))
	}, func(t *dropTally) float64 { return perSecond(t.total, k.now-k.began) })
}

func (k *DropKinds) table(rows int, order func(a, b *dropKind) int, rate func(*dropTally) float64) *DropTable {
	span := k.now - k.began
	t := &DropTable{Type: "drop_totals", Time: k.now, Seconds: seconds(span), Drops: k.drops}
	all := make([]*dropKind, 0, len(k.kinds))
	for n := k.newest; n != nil; n = n.older {
		all = append(all, n)
	}
	slices.SortFunc(all, order)
	rest := k.others
	for i, n := range all {
		if i < rows {
			t.Kinds = append(t.Kinds, n.count(n.total, span, rate(&n.dropTally)))
			continue
		}
		rest.take(&n.dropTally)
		rest.rate += n.rate
	}
	if rest.total > 0 {
		t.Kinds = append(t.Kinds, DropCount{
			Others: true, Count: rest.total, Seconds: seconds(span), Rate: rate(&rest), Since: rest.since, Last: rest.last,
		})
	}
	for why, count := range k.normal {
		t.Normal = append(t.Normal, NormalCount{why, count})
	}
	slices.SortFunc(t.Normal, func(a, b NormalCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Why, b.Why))
	})
	return t
}

// seconds is a time in seconds, to the millisecond.
func seconds(t WallTime) float64 { return float64(t/1e6) / 1e3 }

// perSecond is count in a time as a rate, to a tenth; 0 if the time is too
// short to tell.
func perSecond(count uint64, in WallTime) float64 {
	if in < WallTime(time.Second/10) {
		return 0
	}
	return float64(int64(float64(count)/(float64(in)/1e9)*10+0.5)) / 10
}
