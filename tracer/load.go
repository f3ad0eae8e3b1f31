// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"waymark/bpf"
)

// Splicer puts a compiled filter into the programs before they are loaded.
// *filter.Filter is one.
type Splicer interface {
	Splice(spec *ebpf.CollectionSpec) error
}

// settings are the constants the programs are built with.
type settings struct {
	filter     Splicer
	snapLen    int
	limitNetns bool
	replies    bool   // the other direction is wanted as well
	stack      bool   // drops tell the kernel's stack
	countEqual bool   // drops that are equal are counted; not with stack or a longer snapLen
	ringBytes  uint32 // 0: as in the object
}

// programs is the loaded object: the maps, and a collection for each program
// that is wanted and that this kernel can load.
type programs struct {
	shared   *ebpf.Collection     // the maps and variables
	spec     *ebpf.CollectionSpec // with settings and filter
	types    chan *btf.Cache      // decoded kernel types, one for each program loaded at a time
	loaded   []*ebpf.Collection
	running  map[string][]*ebpf.Program // by hook row
	links    map[string][]link.Link     // by hook row
	shed     map[string]bool            // groups that are detached for the budget
	attached []string                   // names of the hook rows that are attached
	backends map[string]Backend
	missing  map[string]error  // hook row → why not
	retries  map[string]int    // of missing rows, since their module appeared
	exact    bool              // the end of every skb is seen
	reasons  map[uint32]string // names of enum skb_drop_reason
}

// maxLoads bounds the programs that are loaded at a time: verifying one takes a
// processor.
const maxLoads = 4

// prepare returns the object's spec with the settings and the filter in it.
func prepare(s settings, kernel *btf.Spec) (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadWaymark()
	if err != nil {
		return nil, err
	}
	for name, v := range map[string]any{
		"snaplen":       uint32(max(s.snapLen, parseLen)),
		"limit_netns":   s.limitNetns,
		"learn_replies": s.replies,
		"with_stack":    s.stack,
		"count_equal":   s.countEqual,
		"has_reason":    tracepointArgs(kernel, "kfree_skb") >= 3,
		"has_rx_sk":     tracepointArgs(kernel, "kfree_skb") >= 4,
		"has_location":  tracepointArgs(kernel, "consume_skb") >= 2,
	} {
		if err := spec.Variables[name].Set(v); err != nil {
			return nil, fmt.Errorf("set %s in the programs: %w", name, err)
		}
	}
	if !s.countEqual {
		spec.Maps["equals"].MaxEntries = 1
	}
	if s.ringBytes != 0 {
		spec.Maps["ring"].MaxEntries = s.ringBytes
	}
	if s.filter != nil {
		if err := s.filter.Splice(spec); err != nil {
			return nil, err
		}
	}
	return spec, nil
}

// parseLen is PARSE_LEN of bpf/state.h: the kernel always captures that much,
// because it parses headers from the snapshot.
const parseLen = 96

// tracepointArgs is the number of arguments of a tracepoint, from the typedef
// btf_trace_NAME that the kernel makes of it; 0 if there is none.
func tracepointArgs(kernel *btf.Spec, name string) int {
	var td *btf.Typedef
	if kernel.TypeByName("btf_trace_"+name, &td) != nil {
		return 0
	}
	ptr, ok := td.Type.(*btf.Pointer)
	if !ok {
		return 0
	}
	proto, ok := ptr.Target.(*btf.FuncProto)
	if !ok {
		return 0
	}
	return len(proto.Params) - 1 // the first is the tracepoint's own void *
}

// load loads and attaches everything that is not bound to a device. groups
// are the hook groups wanted.
func load(s settings, groups []string) (_ *programs, err error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the memory lock limit: %w", err)
	}
	types := btf.NewCache() // decoding them takes longer than all else
	kernel, err := types.Kernel()
	if err != nil {
		return nil, fmt.Errorf("%w: it has no BTF in /sys/kernel/btf/vmlinux; use one built with CONFIG_DEBUG_INFO_BTF=y: %w", ErrUnsupported, err)
	}
	spec, err := prepare(s, kernel)
	if err != nil {
		return nil, err
	}
	p := &programs{
		spec: spec, types: make(chan *btf.Cache, min(maxLoads, runtime.NumCPU())),
		running: map[string][]*ebpf.Program{}, links: map[string][]link.Link{}, shed: map[string]bool{}, missing: map[string]error{}, retries: map[string]int{}, backends: map[string]Backend{},
		reasons: dropReasons(kernel),
	}
	p.types <- types
	for len(p.types) < cap(p.types) {
		p.types <- btf.NewCache()
	}
	shared := spec.Copy()
	clear(shared.Programs)
	if p.shared, err = ebpf.NewCollectionWithOptions(shared, ebpf.CollectionOptions{}); err != nil {
		return nil, fmt.Errorf("make the programs' maps: %w", err)
	}
	p.attachAll(groups)
	for range cap(p.types) { // tens of megabytes, until a module appears
		<-p.types
		p.types <- btf.NewCache()
	}
	if slices.Contains(groups, "device") && (p.running["ingress"] == nil || p.running["egress"] == nil) {
		err = errors.Join(p.missing["ingress"], p.missing["egress"])
		p.close()
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	return p, nil
}

// attachAll attaches the rows of the groups, all at once: each waits for the
// kernel to have patched its functions, which takes its time.
func (p *programs) attachAll(groups []string) {
	tries := make([]attempt, len(Hooks))
	var wg sync.WaitGroup
	for i, row := range Hooks {
		if slices.Contains(groups, row.Group) {
			wg.Go(func() { tries[i] = p.try(row) })
		}
	}
	wg.Wait()
	for i, row := range Hooks {
		if slices.Contains(groups, row.Group) {
			p.take(row, tries[i])
		}
	}
}

// attempt is what came of attaching a row.
type attempt struct {
	backend     Backend
	progs       []*ebpf.Program
	collections []*ebpf.Collection // of progs
	links       []link.Link
	err         error
}

func (t *attempt) undo() {
	for _, l := range t.links {
		l.Close()
	}
	for _, c := range t.collections {
		c.Close()
	}
}

// take keeps what came of a row, and reports whether it is attached.
func (p *programs) take(row HookRow, t attempt) bool {
	if t.err != nil {
		p.missing[row.Name] = t.err
		return false
	}
	p.loaded = append(p.loaded, t.collections...)
	p.links[row.Name], p.running[row.Name], p.backends[row.Name] = t.links, t.progs, t.backend
	p.attached = append(p.attached, row.Name)
	p.exact = p.exact || row.Hook == bpf.HookKfreeSkbmem
	delete(p.missing, row.Name)
	return true
}

// maxRetries: a module may be listed before its functions are.
const maxRetries = 3

// retry attaches the rows whose module has been loaded since, and returns their
// names.
func (p *programs) retry() (added []string) {
	for _, row := range Hooks {
		if p.missing[row.Name] == nil || row.Module == "" || p.shed[row.Group] || p.retries[row.Name] == maxRetries || !moduleLoaded(row.Module) {
			continue
		}
		p.retries[row.Name]++
		if p.take(row, p.try(row)) {
			added = append(added, row.Name)
		}
	}
	return added
}

// moduleLoaded tells of modules; a part that is built in may not be listed.
func moduleLoaded(name string) bool {
	_, err := os.Stat("/sys/module/" + name)
	return err == nil
}

// try attaches a row by the first of its backends that works. It changes
// nothing in p.
func (p *programs) try(row HookRow) attempt {
	if row.Module != "" && !moduleLoaded(row.Module) && (row.Listed || !p.builtIn(row)) {
		return attempt{err: fmt.Errorf("module %s is not loaded", row.Module)} // cheaper than to look for its functions
	}
	var errs []error
	for _, a := range row.Attach {
		t := p.tryOne(row, a)
		if t.err == nil {
			return t
		}
		t.undo()
		errs = append(errs, fmt.Errorf("%s: %w", a.Backend, firstLine(t.err)))
	}
	return attempt{err: errors.Join(errs...)}
}

// builtIn tells whether the kernel itself has the first function of a row.
func (p *programs) builtIn(row HookRow) bool {
	types := <-p.types
	defer func() { p.types <- types }()
	kernel, err := types.Kernel()
	return err == nil && hasFunction(kernel, row.Attach[0].Symbols[0])
}

func hasFunction(types *btf.Spec, name string) bool {
	var fn *btf.Func
	return types.TypeByName(name, &fn) == nil
}

func (p *programs) tryOne(row HookRow, a Attachment) (t attempt) {
	t.backend = a.Backend
	if t.err = haveBackend(a.Backend); t.err != nil {
		return t
	}
	if t.collections, t.err = p.load(row, a); t.err != nil {
		return t
	}
	for _, c := range t.collections {
		t.progs = append(t.progs, c.Programs[a.Program])
	}
	if row.Group == "device" {
		return t // attached to each device, later
	}
	for _, prog := range t.progs {
		links, err := a.link(prog)
		t.links = append(t.links, links...)
		if t.err = err; err != nil {
			return t
		}
	}
	return t
}

// load loads a program, for fentry and fexit once for each function that the
// kernel has. Nobody else uses the types it uses: decoding a module's types also
// decodes the kernel's, which cilium/ebpf 0.22 does without the kernel types'
// lock.
func (p *programs) load(row HookRow, a Attachment) (loaded []*ebpf.Collection, err error) {
	types := <-p.types
	defer func() { p.types <- types }()
	if a.Backend == BackendMulti && !hasMulti(types) {
		return nil, errors.New("this kernel has no kprobe.multi (5.18, CONFIG_FPROBE)")
	}
	opts := ebpf.CollectionOptions{MapReplacements: p.shared.Maps, Cache: types}
	if row.Module != "" {
		if module, err := types.Module(row.Module); err == nil {
			opts.Programs.ExtraRelocationTargets = []*btf.Spec{module}
		}
	}
	if a.Backend != BackendFentry && a.Backend != BackendFexit {
		c, err := ebpf.NewCollectionWithOptions(only(p.spec, a.Program), opts)
		if err != nil {
			return nil, err
		}
		return []*ebpf.Collection{c}, nil
	}
	for _, function := range a.Symbols {
		if len(a.Symbols) > 1 && !has(function, types, opts.Programs.ExtraRelocationTargets) {
			continue
		}
		spec := only(p.spec, a.Program)
		spec.Programs[a.Program].AttachTo = function
		c, err := ebpf.NewCollectionWithOptions(spec, opts)
		if err != nil {
			return loaded, err
		}
		loaded = append(loaded, c)
	}
	if len(loaded) == 0 {
		return nil, noneOf(a.Symbols)
	}
	return loaded, nil
}

// hasMulti tells whether the kernel has kprobe.multi: kernel/trace/bpf_trace.c
// has this struct then. To try takes the kernel a quarter of a second.
func hasMulti(types *btf.Cache) bool {
	var s *btf.Struct
	kernel, err := types.Kernel()
	return err == nil && kernel.TypeByName("bpf_kprobe_multi_link", &s) == nil
}

// has tells whether the kernel or the module has a function.
func has(function string, types *btf.Cache, module []*btf.Spec) bool {
	kernel, err := types.Kernel()
	return err == nil && hasFunction(kernel, function) ||
		slices.ContainsFunc(module, func(types *btf.Spec) bool { return hasFunction(types, function) })
}

// link attaches prog. On an error what was attached is returned as well.
func (a Attachment) link(prog *ebpf.Program) ([]link.Link, error) {
	one := func(l link.Link, err error) ([]link.Link, error) {
		if err != nil {
			return nil, err
		}
		return []link.Link{l}, nil
	}
	switch a.Backend {
	case BackendRawTP:
		return one(link.AttachRawTracepoint(link.RawTracepointOptions{Name: a.Symbols[0], Program: prog}))
	case BackendFentry, BackendFexit:
		return one(link.AttachTracing(link.TracingOptions{Program: prog}))
	case BackendMulti:
		l, err := link.KprobeMulti(prog, link.KprobeMultiOptions{Symbols: a.Symbols})
		if !errors.Is(err, os.ErrNotExist) {
			return one(l, err)
		}
		// One name that the kernel does not know fails them all.
		known, err := knownFunctions(a.Symbols)
		if err != nil {
			return nil, err
		}
		return one(link.KprobeMulti(prog, link.KprobeMultiOptions{Symbols: known}))
	case BackendKprobe:
		return a.kprobes(prog)
	}
	return nil, fmt.Errorf("backend %s is attached to devices only", a.Backend)
}

// kprobes attaches prog to each function that the kernel has.
func (a Attachment) kprobes(prog *ebpf.Program) (links []link.Link, err error) {
	for _, symbol := range a.Symbols {
		l, err := link.Kprobe(symbol, prog, nil)
		switch {
		case errors.Is(err, os.ErrNotExist) && len(a.Symbols) > 1:
			continue
		case err != nil:
			return links, err
		}
		links = append(links, l)
	}
	if len(links) == 0 {
		return nil, noneOf(a.Symbols)
	}
	return links, nil
}

func noneOf(symbols []string) error {
	return fmt.Errorf("the kernel has no %s: its module is not loaded", symbols[0])
}

// haveBackend returns why a backend cannot work at all on this kernel, where
// that can be told better than by the failure of an attach.
func haveBackend(b Backend) error {
	switch b {
	case BackendKprobe, BackendMulti:
		// The PMU is there from 4.17 on, wherever kprobes are.
		if _, err := os.Stat("/sys/bus/event_source/devices/kprobe"); err != nil {
			return errors.New("this kernel has no kprobes (CONFIG_KPROBES)")
		}
	case BackendFentry, BackendFexit:
		if err := features.HaveProgramType(ebpf.Tracing); err != nil {
			return errors.New("this kernel refuses programs of type tracing")
		}
	}
	return nil
}

// only returns spec with a copy of one program. To copy all would take longer
// than to load one.
func only(spec *ebpf.CollectionSpec, program string) *ebpf.CollectionSpec {
	return &ebpf.CollectionSpec{
		Maps: spec.Maps, Types: spec.Types, ByteOrder: spec.ByteOrder,
		Programs: map[string]*ebpf.ProgramSpec{program: spec.Programs[program].Copy()},
	}
}

// firstLine keeps a verifier's log out of what a person reads.
func firstLine(err error) error {
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) {
		return fmt.Errorf("%w", ve.Cause)
	}
	return err
}

// close detaches, all at once as attachAll.
func (p *programs) close() {
	closeAll(slices.Concat(slices.Collect(maps.Values(p.links))...))
	for _, c := range p.loaded {
		c.Close()
	}
	p.shared.Close()
}
