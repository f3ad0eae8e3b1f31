// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"waymark/bpf"
	"waymark/decoder"
	"waymark/tracer/place"
)

// Options say what to trace.
type Options struct {
	// Filter matches the packets to follow; nil follows every packet.
	Filter Splicer
	// Netns names the namespaces to look at (place.Find); empty is all.
	Netns []string
	// Devices are the patterns of devices to attach to; empty is DefaultDevices.
	Devices []string
	// Groups are the hook groups to attach; empty is DefaultGroups.
	Groups []string
	// SnapLen is the number of bytes of packet kept per record; 0 is 96.
	SnapLen int
	// RingBytes is the size of the ring buffer, a power of two; 0 is 64 MiB.
	RingBytes uint32
	// Session is what the stream starts with. Open fills in the machine's side.
	Session decoder.Session
	// Sink takes the stream, from a goroutine that Run starts and waits for.
	Sink decoder.Sink
	// Balancer reads the published state of a balancer in a namespace; nil
	// result: there is none. It is called with the thread inside.
	Balancer func(ns place.Namespace) (*decoder.Balancer, error)
	// Stack has drops tell the kernel's stack.
	Stack bool
	// CountEqual has one record tell of several drops that differ in nothing that
	// is shown of them, by its field Equal, as far as the kernel can (5.19) and
	// neither Stack nor SnapLen ask for more.
	CountEqual bool
	// Cost measures what each hook costs, see Tracer.Costs.
	Cost bool
	// Budget is what the programs and this process may cost, in percent of one
	// CPU; 0 is no limit. Above it hook groups are detached, then only a part of
	// the flows is followed.
	Budget float64
	// Log takes what a person should know that is not a result.
	Log zerolog.Logger
}

// How often the tracer does things that are not reading records. The clock is
// the stream's watermark: everything before it has been read, and its losses
// told.
const (
	pollEvery  = 4 * time.Millisecond   // look into the ring while records come
	pollIdle   = 20 * time.Millisecond  // and at most this long apart while none do
	drainMax   = 16384                  // records to read before looking at anything else
	clockEvery = 50 * time.Millisecond  // move the stream's time on
	lastDrain  = 5 * time.Second        // at most this long to read what is left at the end
	scanEvery  = 500 * time.Millisecond // look for namespaces that came or went
	stateEvery = 500 * time.Millisecond // look at queues and balancers
)

// Tracer is a running trace: programs attached, records waiting in the ring.
type Tracer struct {
	opts     Options
	programs *programs
	ring     *ring
	places   *places
	stream   *stream
	loss     *lossWatch
	keeper   *keeper     // nil: there is no budget
	equal    *equalDrops // nil: each drop has its record
	stats    io.Closer   // ends measuring; nil: it was not asked for
}

// ErrNotPermitted is returned by Open without the needed capabilities.
var ErrNotPermitted = errors.New("not permitted to load BPF programs: run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN")

// ErrUnsupported is returned by Open on a kernel that waymark cannot work on.
var ErrUnsupported = errors.New("not supported by this kernel")

// Open loads and attaches. When it returns every packet is seen; Run reads
// them. Close the tracer in any case.
func Open(ctx context.Context, opts Options) (_ *Tracer, err error) {
	if len(opts.Devices) == 0 {
		opts.Devices = DefaultDevices
	}
	if len(opts.Groups) == 0 {
		opts.Groups = DefaultGroups
	}
	if opts.SnapLen == 0 {
		opts.SnapLen = parseLen
	}
	if err := CheckPatterns(opts.Devices); err != nil {
		return nil, err
	}
	for _, g := range opts.Groups {
		if !slices.Contains(Groups, g) {
			return nil, fmt.Errorf("unknown hook group %q: choose from %v", g, Groups)
		}
	}
	var wanted []place.Namespace
	for _, spec := range opts.Netns {
		ns, err := place.Find(spec)
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, ns)
	}

	t := &Tracer{opts: opts}
	countEqual := opts.CountEqual && !opts.Stack && opts.SnapLen <= parseLen && canCountEqual()
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	t.programs, err = load(settings{
		filter: opts.Filter, snapLen: opts.SnapLen, limitNetns: len(opts.Netns) > 0, ringBytes: opts.RingBytes,
		replies: opts.Session.FollowReply, stack: opts.Stack, countEqual: countEqual,
	}, opts.Groups)
	if err != nil {
		if errors.Is(err, unix.EPERM) && !privileged() {
			return nil, fmt.Errorf("%w (%w)", ErrNotPermitted, firstLine(err))
		}
		return nil, err
	}
	for _, ns := range wanted {
		if err := t.programs.shared.Maps["netns"].Put(ns.Inode, uint8(1)); err != nil {
			return nil, fmt.Errorf("tell the programs the namespace %s: %w", ns.Name, err)
		}
	}
	if t.ring, err = openRing(t.programs.shared.Maps["ring"]); err != nil {
		return nil, err
	}
	if opts.Cost || opts.Budget > 0 {
		if err := t.measure(); err != nil {
			return nil, err
		}
	}
	if countEqual {
		if t.equal, err = t.programs.equalDrops(); err != nil {
			return nil, err
		}
	}
	t.loss = newLossWatch(t.programs)
	t.stream = newStream(opts, t.session(), kernelNames{t.programs.functionNames(opts.Log), t.programs.reasons})
	if opts.Budget > 0 {
		t.keeper = newKeeper(t, opts.Budget)
	}
	sockets := t.programs.running["socket_receive"] != nil
	if sockets {
		t.stream.owners.begin() // whoever listens already is known from the first packet on
	}
	if t.places, err = openPlaces(ctx, t, slices.Contains(opts.Groups, "device")); err != nil {
		return t, err
	}
	if sockets {
		err = t.stream.awaitOwners()
	}
	return t, err
}

// privileged tells whether a refusal has another cause than who we are.
func privileged() bool { return os.Geteuid() == 0 }

// session completes the caller's session with what this machine is.
func (t *Tracer) session() decoder.Session {
	s := t.opts.Session
	s.Kernel = KernelRelease()
	s.WallOffset = wallOffset()
	s.ExactFrees = t.programs.exact
	s.SnapLen = t.opts.SnapLen
	s.Hooks = append([]string(nil), t.programs.attached...)
	return s
}

// Attached says how many devices are traced, and in how many namespaces.
func (t *Tracer) Attached() (devices, namespaces int) { return t.places.attached() }

// Missing says why hooks of the wanted groups are not attached, by name.
func (t *Tracer) Missing() map[string]error { return t.programs.missing }

// ErrDone may be returned by a sink to end the trace without an error.
var ErrDone = errors.New("the sink has all it wants")

// Run reads records into the sink until ctx is done or the sink returns
// ErrDone. What was recorded before that moment is read to the end.
func (t *Tracer) Run(ctx context.Context) error {
	q := newQueue(t.opts.Sink)
	t.stream.sink = q
	err := t.run(ctx, q)
	why := "limit"
	if ctx.Err() != nil {
		why = "interrupted"
	}
	if sinkErr := q.close(); err == nil {
		err = sinkErr
	}
	if err != nil && !errors.Is(err, ErrDone) {
		return err
	}
	records, lost := t.Totals()
	t.stream.sink = t.opts.Sink // also when that wants no more records
	if t.keeper != nil {
		if err := t.keeper.end(); err != nil && !errors.Is(err, ErrDone) {
			return err
		}
	}
	return t.stream.context(&decoder.Context{End: &decoder.End{Records: records, Lost: lost, Why: why}})
}

func (t *Tracer) run(ctx context.Context, q *queue) error {
	defer hurry()()
	if err := t.stream.start(); err != nil {
		return err
	}
	if err := t.tick(); err != nil {
		return err
	}
	wait := pollEvery
	poll := time.NewTimer(wait)
	defer poll.Stop()
	var lastClock, lastScan, lastState time.Time
	for {
		if err := t.places.update(t.stream); err != nil {
			return err
		}
		now := time.Now()
		due := now.Sub(lastClock) >= clockEvery
		if due {
			if _, err := t.equal.tell(); err != nil {
				return err
			}
		}
		before := bootTime()
		n, err := t.ring.drain(drainMax, t.stream.record)
		if err != nil {
			return err
		}
		if t.ring.empty() {
			// Else there may be more from before now: the stream is where its
			// last record is.
			t.stream.readTo(before)
		}
		if due {
			lastClock = now
			if err := t.tick(); err != nil {
				return err
			}
		}
		if now.Sub(lastScan) >= scanEvery {
			lastScan = now
			t.places.rescan()
			for _, name := range t.programs.retry() {
				t.opts.Log.Info().Str("hook", name).Msg("its module was loaded: attached")
			}
		}
		if t.keeper != nil {
			if err := t.keeper.look(now, q.backlog()); err != nil {
				return err
			}
		}
		if err := t.stream.lookForOwners(now); err != nil {
			return err
		}
		if now.Sub(lastState) >= stateEvery {
			lastState = now
			if err := t.stream.refresh(); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			// What came in until now, also behind a record being written; a
			// trace of everything never sees the ring empty.
			if err := t.equal.tellAll(func() error {
				_, err := t.ring.drain(drainMax, t.stream.record)
				return err
			}); err != nil {
				return err
			}
			end := bootTime()
			for t.stream.rec.TimeNs < end && !t.ring.empty() && bootTime() < end+uint64(lastDrain) {
				if _, err := t.ring.drain(drainMax, t.stream.record); err != nil {
					return err
				}
			}
			t.stream.readTo(end)
			if err := t.stream.lastOwners(); err != nil {
				return err
			}
			return t.tick()
		}
		if err := q.flush(); err != nil {
			return err
		}
		switch {
		case n == drainMax:
			continue
		case n > 0:
			wait = pollEvery
		default:
			// Every look wakes a CPU: look less often while nothing matches.
			wait = min(2*wait, pollIdle)
		}
		poll.Reset(wait)
		select {
		case <-ctx.Done():
		case <-poll.C:
		}
	}
}

// hurry gives this goroutine a thread that gets a processor soon when it wants
// one, where that is allowed: it needs little, but when it comes late on a busy
// machine the ring overflows.
func hurry() (undo func()) {
	const readerNice = -10
	runtime.LockOSThread()
	was, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, 0, readerNice)
	}
	return func() {
		if err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-was) // the system call returns 20 minus the value
		}
		runtime.UnlockOSThread()
	}
}

// tick tells what was lost, then how far the ring was read. A loss is dated by
// when it happened, which with a full ring is well ahead of what was read: the
// journeys it concerns come later in the stream.
func (t *Tracer) tick() error {
	for _, l := range t.loss.since() {
		if err := t.stream.context(&decoder.Context{Loss: &l}); err != nil {
			return err
		}
	}
	return t.stream.context(&decoder.Context{Clock: &decoder.Clock{Told: t.loss.at}})
}

// Totals is how many records were written and lost so far, over all hooks.
func (t *Tracer) Totals() (records, lost uint64) {
	for _, s := range t.loss.read() {
		records += s.Records
		lost += s.Lost
	}
	return records, lost
}

// Stats is the counters by hook number, summed over CPUs.
func (t *Tracer) Stats() [bpf.HookMax]bpf.HookStats { return t.loss.read() }

// Close detaches everything: devices and the rest at once, for the kernel waits
// with each. It may be called twice.
func (t *Tracer) Close() {
	var devices sync.WaitGroup
	if t.places != nil {
		t.places.stop()
		devices.Go(t.places.detach)
	}
	if t.keeper != nil {
		t.keeper.close()
		t.keeper = nil
	}
	if t.programs != nil {
		t.programs.close()
		t.programs = nil
	}
	devices.Wait()
	t.places = nil
	if t.ring != nil {
		t.ring.close()
		t.ring = nil
	}
	if t.stats != nil {
		t.stats.Close()
		t.stats = nil
	}
}

// bootTime is CLOCK_BOOTTIME in ns, the records' clock.
func bootTime() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return uint64(ts.Nano())
}

// wallOffset is wall clock minus boot clock, in ns.
func wallOffset() int64 {
	var wall, boot unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &wall)
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	return wall.Nano() - boot.Nano()
}

// KernelRelease is the running kernel's release, as uname -r prints it.
func KernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
