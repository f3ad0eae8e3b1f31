// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"waymark/bpf"
)

// FastPathConfig says where the fast path works and how.
type FastPathConfig struct {
	// Devices are patterns (path.Match) of the devices by which clients'
	// packets come.
	Devices []string
	// Redirect hands placed packets straight to the nexthop where routing would
	// do just that.
	Redirect              bool
	FirstQueue, LastQueue uint16 // the balancer's, both included: the rules that queue to them let marked packets pass
	NetNS                 int    // file descriptor of the network namespace; 0: the caller's
	// Log is told what is served, and with an error what is not; nil: nobody.
	Log func(message string, err error)
}

// FastPath decides packets at TC ingress as its balancer does and marks them, so
// that the rule which queues packets can let them by. What it does not decide
// goes on to the queue, and everything does when it ends.
//
// A state of the balancer is an image in a map, and a new state is a new map
// that takes the old one's place at once: a packet is decided by one or the
// other. Counters have two banks in turn, so that what is counted by an image
// is added up when nothing reads it any more.
type FastPath struct {
	b      *Balancer
	config FastPathConfig
	spec   *ebpf.CollectionSpec

	// What lives as long as the fast path does.
	entry                   *ebpf.Program // what is attached where there is no tcx
	decider, hits, outcomes *ebpf.Map

	// The rest is changed with the balancer's lock held.
	program *ebpf.Program // decides, for images up to size
	images  *ebpf.Map
	size    int
	links   map[link.Link]bool // devices the program is attached to by tcx

	bank   int
	image  *fastImage // the one whose counters are in the bank in use
	seen   []uint64   // counter values that were added up already
	folded []uint64   // outcome values that were
	placed uint64     // packets of all targets, added up

	routes *fastRoutes

	// What Log was told last; Run's alone.
	pass          string
	notRedirected [2]string // of IPv4 and IPv6

	mu     sync.Mutex // for active alone
	active bool
}

// NewFastPath loads the programs for b; Run attaches them. The error is
// ebpf.ErrNotSupported or a permission's if this system cannot do that.
func NewFastPath(b *Balancer, c FastPathConfig) (*FastPath, error) {
	spec, err := bpf.LoadFastpath()
	if err != nil {
		return nil, fmt.Errorf("fast path: %w", err)
	}
	if c.Log == nil {
		c.Log = func(string, error) {}
	}
	f := &FastPath{b: b, config: c, spec: spec, links: make(map[link.Link]bool)}
	f.seen = make([]uint64, 2*bpf.FastpathFastLimitsFAST_COUNTERS)
	f.folded = make([]uint64, bpf.FastpathFastOutcomeFAST_OUTCOMES)
	if err := f.load(); err != nil {
		f.Close()
		return nil, fmt.Errorf("fast path: %w", err)
	}
	b.setFastPath(f)
	return f, nil
}

// load makes what does not depend on the size of an image.
func (f *FastPath) load() error {
	var err error
	for name, m := range map[string]**ebpf.Map{
		bpf.FastpathMapDecider: &f.decider, bpf.FastpathMapHits: &f.hits, bpf.FastpathMapOutcomes: &f.outcomes,
	} {
		if *m, err = ebpf.NewMap(f.spec.Maps[name]); err != nil {
			return err
		}
	}
	var objs struct {
		Entry *ebpf.Program `ebpf:"fastpath_entry"`
	}
	err = f.spec.Copy().LoadAndAssign(&objs, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{bpf.FastpathMapDecider: f.decider}})
	f.entry = objs.Entry
	return err
}

// Close leaves every packet to the queue and frees what was loaded. Run has
// ended before.
func (f *FastPath) Close() {
	f.b.setFastPath(nil)
	f.b.mu.Lock()
	defer f.b.mu.Unlock()
	if f.images != nil {
		f.use(nil)
		f.fold()
	}
	for _, m := range []*ebpf.Map{f.decider, f.hits, f.outcomes, f.images} {
		m.Close()
	}
	for _, p := range []*ebpf.Program{f.entry, f.program} {
		p.Close()
	}
}

// use is called with the balancer's lock held, as is all below.
func (f *FastPath) use(s *State) {
	err := f.put(s)
	if err != nil {
		// A state that is not the balancer's must not decide.
		err = errors.Join(err, f.clear())
		f.config.Log("the fast path is off, all packets go through the queue", err)
	}
	f.mu.Lock()
	f.active = err == nil && s != nil
	f.mu.Unlock()
}

func (f *FastPath) clear() error {
	if f.images == nil {
		return nil
	}
	if err := f.images.Delete(uint32(0)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

func (f *FastPath) put(s *State) error {
	if s == nil {
		return f.clear()
	}
	bank := 1 - f.bank
	image, err := newFastImage(s, bank*int(bpf.FastpathFastLimitsFAST_COUNTERS), f.routes)
	if err != nil {
		return err
	}
	if len(image.bytes) > f.size {
		if err := f.grow(len(image.bytes)); err != nil {
			return err
		}
	}
	inner, err := ebpf.NewMap(f.inner(f.size))
	if err != nil {
		return fmt.Errorf("image of %d bytes: %w", f.size, err)
	}
	defer inner.Close()
	value := make([]byte, f.size+int(bpf.FastpathFastLimitsFAST_SLACK))
	copy(value, image.bytes)
	if err := inner.Put(uint32(0), value); err != nil {
		return fmt.Errorf("image of %d bytes: %w", f.size, err)
	}
	// The call returns when no program runs any more that began with the old
	// image (kernel/bpf/syscall.c: maybe_wait_bpf_programs).
	if err := f.images.Put(uint32(0), inner); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	f.foldHits()
	f.bank, f.image = bank, image
	return nil
}

// grow loads the deciding program for images of size bytes and more, and puts
// it in the place of the one before.
func (f *FastPath) grow(size int) error {
	const least = 64 << 10
	room := least
	for room < size {
		room *= 2
	}
	spec := f.spec.Copy()
	spec.Maps[bpf.FastpathMapImages].InnerMap = f.inner(room)
	if err := spec.Variables[bpf.FastpathVarImageMask].Set(uint32(room - 1)); err != nil {
		return err
	}
	name := bpf.FastpathProgFastpathMark
	if f.config.Redirect {
		name = bpf.FastpathProgFastpathRedirect
	}
	for p := range spec.Programs {
		if p != name {
			delete(spec.Programs, p)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{
			bpf.FastpathMapDecider: f.decider, bpf.FastpathMapHits: f.hits, bpf.FastpathMapOutcomes: f.outcomes,
		},
	})
	if err != nil {
		return err
	}
	defer coll.Close()
	// It has no image yet: until then packets go to the queue.
	if err := f.decider.Put(uint32(0), coll.Programs[name]); err != nil {
		return err
	}
	for l := range f.links {
		if err := l.Update(coll.Programs[name]); err != nil && !errors.Is(err, unix.ENOLINK) { // the device is gone
			return fmt.Errorf("put the program for larger images in place: %w", err)
		}
	}
	f.program.Close()
	f.images.Close()
	f.program, f.images, f.size = coll.DetachProgram(name), coll.DetachMap(bpf.FastpathMapImages), room
	return nil
}

// inner is the map of an image of room bytes.
func (f *FastPath) inner(room int) *ebpf.MapSpec {
	spec := f.spec.Maps[bpf.FastpathMapImages].InnerMap.Copy()
	spec.ValueSize = uint32(room) + uint32(bpf.FastpathFastLimitsFAST_SLACK)
	return spec
}

func (f *FastPath) fold() {
	// In this order none seems redirected less than none.
	outcomes := f.countOutcomes()
	f.foldHits()
	for outcome, why := range map[bpf.FastpathFastOutcome]Reason{
		bpf.FastpathFastOutcomeFAST_NO_FLOW: NoFlow, bpf.FastpathFastOutcomeFAST_NO_TARGET: NoTarget,
	} {
		f.b.counts[why].Add(outcomes[outcome] - f.folded[outcome])
	}
	f.folded = outcomes
}

func (f *FastPath) foldHits() {
	if f.image == nil {
		return
	}
	base := f.bank * int(bpf.FastpathFastLimitsFAST_COUNTERS)
	for i, owner := range f.image.owners {
		n := sumCPUs(f.hits, base+i)
		more := n - f.seen[base+i]
		f.seen[base+i] = n
		owner.Add(more)
		if i >= f.image.targets {
			f.placed += more
			f.b.counts[Decided].Add(more)
		}
	}
}

func (f *FastPath) countOutcomes() []uint64 {
	out := make([]uint64, bpf.FastpathFastOutcomeFAST_OUTCOMES)
	for i := range out {
		out[i] = sumCPUs(f.outcomes, i)
	}
	return out
}

// sumCPUs is a per-CPU counter's value. It cannot fail: the entries of such a
// map are always there.
func sumCPUs(m *ebpf.Map, i int) (sum uint64) {
	var perCPU []uint64
	if m.Lookup(uint32(i), &perCPU) != nil {
		return 0
	}
	for _, n := range perCPU {
		sum += n
	}
	return sum
}

// Stats takes a look at the counters.
func (f *FastPath) Stats() FastStats {
	f.b.mu.Lock()
	defer f.b.mu.Unlock()
	f.fold()
	return fastStats(f.folded, f.placed, f.config.Redirect)
}

// Metrics are the fast path's counters as Prometheus text.
func (f *FastPath) Metrics() []byte {
	f.mu.Lock()
	active := f.active
	f.mu.Unlock()
	var m MetricsText
	s := f.Stats()
	s.metrics(&m, active)
	return m.text
}

// useRoutes takes over what routing does.
func (f *FastPath) useRoutes(r *fastRoutes) {
	f.b.mu.Lock()
	defer f.b.mu.Unlock()
	if f.routes.same(r) {
		return
	}
	f.routes = r
	f.b.refreshFast()
}

func (r *fastRoutes) same(o *fastRoutes) bool {
	if r == nil || o == nil {
		return r == o
	}
	return maps.Equal(r.v4, o.v4) && maps.Equal(r.v6, o.v6) && slices.Equal(r.local, o.local)
}
