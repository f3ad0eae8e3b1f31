// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"time"
)

// Fragments: only the first one of a packet has the ports, so its decision is
// remembered under the addresses and the fragment id, and the later ones get
// the same. A later one that comes before the first can be kept; when the first
// comes, the kept ones are given back to the kernel through a tun device, and
// so come to the queue once more.
//
// All memory is taken at the start. One lock guards it, since several queues
// share it; a packet that is no fragment never comes here.

// FragmentConfig bounds the memory for fragments. The names in brackets are
// nfqlb's options.
type FragmentConfig struct {
	Size        int           // slots of the table [ft_size]; rate of fragmented packets · TTL · 2 is right
	Buckets     int           // further entries, for packets whose slot is taken [ft_buckets]
	Stored      int           // later fragments kept until their first one comes [ft_frag]
	MTU         int           // bytes of the longest fragment that can be kept [mtu]
	TTL         time.Duration // an entry lives that long after its last fragment [ft_ttl]
	Reassembler int           // packets whose entry is freed with their last fragment [reassembler]

	// Inject gives a kept fragment, from its IP header on, back to the kernel.
	// It may be called from several goroutines. Without it nothing is kept.
	Inject func(packet []byte) error
	// Stats is where to count, such as shared memory; nil: in private.
	Stats *FragCounters

	injected func(bytes int, err error) // told of each fragment given back; nil: nobody

	now func() time.Duration // tests have a clock of their own
}

// DefaultFragments is what nfqlb starts with.
func DefaultFragments() FragmentConfig {
	return FragmentConfig{Size: 500, Buckets: 500, Stored: 100, MTU: 1500, TTL: 200 * time.Millisecond}
}

// Limits of a FragmentConfig. They keep a mistyped number from filling the
// machine's memory.
const (
	LeastMTU       = 576 // nfqlb's
	maxFragTable   = 1 << 20
	maxFragStored  = 1 << 16
	maxFragMemory  = 1 << 30 // bytes of kept fragments
	maxReassembler = 1 << 16
	maxFragTTL     = time.Minute
)

// Check says what is wrong with c, in the words of the options.
func (c *FragmentConfig) Check() error {
	for _, n := range []struct {
		name         string
		value        int
		least, worst int
	}{
		{"mtu", c.MTU, LeastMTU, math.MaxUint16},
		{"ft-size", c.Size, 1, maxFragTable},
		{"ft-buckets", c.Buckets, 0, maxFragTable},
		{"ft-frag", c.Stored, 0, maxFragStored},
		{"reassembler", c.Reassembler, 0, maxReassembler},
	} {
		if n.value < n.least {
			return fmt.Errorf("--%s %d is below %d", n.name, n.value, n.least)
		}
		if n.value > n.worst {
			return fmt.Errorf("--%s %d is above %d", n.name, n.value, n.worst)
		}
	}
	if c.TTL < time.Millisecond || c.TTL > maxFragTTL {
		return fmt.Errorf("--ft-ttl %d is not within 1-%d ms", c.TTL.Milliseconds(), maxFragTTL.Milliseconds())
	}
	if n := c.Stored * c.MTU; n > maxFragMemory {
		return fmt.Errorf("--ft-frag %d of --mtu %d bytes take %d MB; choose fewer", c.Stored, c.MTU, n>>20)
	}
	return nil
}

// fragKey is what the fragments of one packet have in common, as in nfqlb:
// source, destination, id.
type fragKey [36]byte

func makeFragKey(p *Packet) (k fragKey) {
	copy(k[:], p.Key[:32])
	binary.BigEndian.PutUint32(k[32:], p.FragID)
	return k
}

type fragState uint8

const (
	fragWaits   fragState = iota // for its first fragment; later ones are kept
	fragDecided                  // the first fragment was seen
	fragLost                     // a later one could not be kept: the others would be of no use
)

// fragEntry is one fragmented packet. The numbers are places in the arrays of
// fragTable, none is -1.
type fragEntry struct {
	key            fragKey
	state          fragState
	decision       Decision
	used           time.Duration // last reference
	next           int32         // in the slot's chain or the free list
	older, newer   int32         // by last reference
	stored, newest int32         // kept packets, in the order they came
	holes          int32
}

const none = -1

// fragTable is a hash table with a list by age. All but config is guarded by
// mu.
type fragTable struct {
	config FragmentConfig
	seed   maphash.Seed // so that nobody can choose ids that share a slot

	mu             sync.Mutex
	stats          *FragCounters
	slots          []int32
	entries        []fragEntry
	free           int32
	oldest, newest int32
	store          fragStore
	holes          holePool
}

// newFragTable takes all the memory; c was checked.
func newFragTable(c FragmentConfig) *fragTable {
	if c.Inject == nil {
		c.Stored = 0
	}
	if c.now == nil {
		start := time.Now()
		c.now = func() time.Duration { return time.Since(start) }
	}
	f := &fragTable{
		config: c, seed: maphash.MakeSeed(), stats: c.Stats,
		slots: make([]int32, c.Size), entries: make([]fragEntry, c.Size+c.Buckets),
		oldest: none, newest: none,
		store: newFragStore(c.Stored, c.MTU), holes: newHolePool(c.Reassembler),
	}
	if f.stats == nil {
		f.stats = new(FragCounters)
	}
	*f.stats = FragCounters{
		ttlNanos: uint64(c.TTL), size: uint32(c.Size), mtu: uint32(c.MTU),
		bucketsMax: uint32(c.Buckets), fragsMax: uint32(c.Stored),
	}
	for i := range f.slots {
		f.slots[i] = none
	}
	for i := range f.entries {
		f.entries[i].next = int32(i) + 1
	}
	f.entries[len(f.entries)-1].next = none
	return f
}

// decide turns the decision d about the fragment l3 into the one that holds
// for its packet. It allocates nothing.
func (f *fragTable) decide(l3 []byte, p *Packet, d Decision) Decision {
	k := makeFragKey(p)
	if p.Kind&FirstFragment != 0 {
		return f.first(&k, l3, d)
	}
	return f.later(&k, l3)
}

// first remembers d and gives back what was kept for it. The fragments of a
// packet that is dropped are dropped, too.
func (f *fragTable) first(k *fragKey, l3 []byte, d Decision) Decision {
	f.mu.Lock()
	i := f.enter(k, true)
	if i == none {
		f.mu.Unlock()
		// Without its later fragments it would only wait at the target.
		d.drop(NoFragmentRoom)
		return d
	}
	e := &f.entries[i]
	if e.state != fragDecided {
		e.state = fragDecided
		if d.Accept {
			e.holes = f.holes.take()
		}
	}
	// A first fragment that comes again is either a copy, with the same
	// decision, or of a new packet with the same id. The latest one counts.
	e.decision = d
	kept := e.stored
	e.stored, e.newest = none, none
	f.follow(i, l3) // e may be free now
	if !d.Accept {
		f.discard(kept)
		kept = none
	}
	f.mu.Unlock()
	if kept != none {
		f.inject(kept)
	}
	return d
}

// later gives the decision of the first fragment, or keeps or drops this one.
func (f *fragTable) later(k *fragKey, l3 []byte) Decision {
	d := Decision{Slot: -1, Index: -1, Mark: -1, Why: LaterOfFirst}
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.enter(k, f.config.Stored > 0)
	if i == none {
		if f.config.Stored > 0 {
			d.Why = NoFragmentRoom
		}
		return d
	}
	e := &f.entries[i]
	switch e.state {
	case fragDecided:
		d = e.decision
		f.follow(i, l3)
	case fragLost:
		d.Why = NoFragmentRoom
	case fragWaits:
		d.Why = FragmentKept
		at := f.store.put(l3)
		if at == none {
			d.Why = NoFragmentRoom
			e.state = fragLost
			f.stats.fragsDiscarded++
			f.discard(e.stored)
			e.stored, e.newest = none, none
			break
		}
		f.stats.fragsAllocated++
		if e.newest == none {
			e.stored = at
		} else {
			f.store.items[e.newest].next = at
		}
		e.newest = at
	}
	return d
}

// enter finds the entry of k and makes it the youngest; if there is none and
// make is set, it makes one. none: there is none, or no room for it.
func (f *fragTable) enter(k *fragKey, make bool) int32 {
	now := f.config.now()
	f.expire(now)
	f.stats.lookups++
	slot := &f.slots[f.slot(k)]
	for i := *slot; i != none; i = f.entries[i].next {
		if f.entries[i].key == *k {
			f.unlinkAge(i)
			f.linkAge(i, now)
			return i
		}
	}
	if !make {
		return none
	}
	if *slot != none {
		if f.stats.bucketsUsed >= uint32(f.config.Buckets) {
			f.stats.rejectedInserts++
			return none
		}
		f.stats.bucketsAllocated++
		f.stats.bucketsUsed++
		f.stats.collisions++
	}
	// There are as many entries as slots and buckets, so one is free.
	i := f.free
	e := &f.entries[i]
	f.free = e.next
	*e = fragEntry{key: *k, next: *slot, stored: none, newest: none, holes: none}
	*slot = i
	f.linkAge(i, now)
	f.stats.inserts++
	f.stats.active++
	return i
}

// expire removes the entries that nobody asked for within the TTL.
func (f *fragTable) expire(now time.Duration) {
	for f.oldest != none && now-f.entries[f.oldest].used >= f.config.TTL {
		f.stats.objGC++
		f.remove(f.oldest)
	}
}

// remove frees entry i and what it keeps.
func (f *fragTable) remove(i int32) {
	e := &f.entries[i]
	at := &f.slots[f.slot(&e.key)]
	if *at != i || e.next != none { // the chain had more than one
		f.stats.bucketsUsed--
		f.stats.collisions--
	}
	for *at != i {
		at = &f.entries[*at].next
	}
	*at = e.next
	f.unlinkAge(i)
	f.discard(e.stored)
	f.holes.release(e.holes)
	*e = fragEntry{next: f.free} // holds on to no flow
	f.free = i
	f.stats.active--
}

// follow notes that a fragment got its decision, and frees the entry when all
// have.
func (f *fragTable) follow(i int32, l3 []byte) {
	h := f.entries[i].holes
	if h == none {
		return
	}
	x, ok := extentOf(l3)
	if ok && f.holes.fill(h, x) {
		f.stats.reAssembled++
		f.remove(i)
	}
}

// discard drops the kept packets of a chain.
func (f *fragTable) discard(chain int32) {
	f.stats.fragsDiscarded += uint32(f.store.release(chain))
}

// inject gives the kept packets of a chain back to the kernel. The chain is
// nobody else's any more, so the lock is held only to free it.
func (f *fragTable) inject(chain int32) {
	failed := uint32(0)
	for i := chain; i != none; i = f.store.items[i].next {
		packet := f.store.packet(i)
		err := f.config.Inject(packet)
		if err != nil {
			failed++
		}
		if f.config.injected != nil {
			f.config.injected(len(packet), err)
		}
	}
	f.mu.Lock()
	f.stats.fragsDiscarded += failed
	f.store.release(chain)
	f.mu.Unlock()
}

func (f *fragTable) slot(k *fragKey) uint64 {
	return maphash.Bytes(f.seed, k[:]) % uint64(len(f.slots))
}

func (f *fragTable) linkAge(i int32, now time.Duration) {
	e := &f.entries[i]
	e.used, e.older, e.newer = now, f.newest, none
	if f.newest == none {
		f.oldest = i
	} else {
		f.entries[f.newest].newer = i
	}
	f.newest = i
}

func (f *fragTable) unlinkAge(i int32) {
	e := &f.entries[i]
	if e.older == none {
		f.oldest = e.newer
	} else {
		f.entries[e.older].newer = e.newer
	}
	if e.newer == none {
		f.newest = e.older
	} else {
		f.entries[e.newer].older = e.older
	}
}

// snapshot is the counters now, stale entries removed.
func (f *fragTable) snapshot() *FragStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire(f.config.now())
	return f.stats.stats()
}
