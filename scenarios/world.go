// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// The life of a world: up, load, down.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

var (
	// ErrUp says that the lab is already up.
	ErrUp = errors.New("the lab is already up")
	// ErrNotUp says that the lab is not up.
	ErrNotUp = errors.New("the lab is not up")
	// ErrUnsupported says that this kernel lacks something the lab cannot do
	// without.
	ErrUnsupported = errors.New("not supported by this kernel")
	// ErrUnknown says that there is no lab or fault of that name.
	ErrUnknown = errors.New("unknown name")
)

// downTimeout bounds the wait for another program that changes a lab.
const downTimeout = 10 * time.Second

// Options say how to bring a world up. The zero value plus a Lab works.
type Options struct {
	// Lab is the name of the lab, as List gives it.
	Lab string
	// Executable is the waymark that serves the targets and, unless Balancer
	// is set, balances. Default: the running program, which must then
	// understand `lab serve-target` and `lb`.
	Executable string
	// Balancer is a foreign nfqlb to use instead of `waymark lb`.
	Balancer string
	// NoBridgeNetfilter keeps bridged packets away from netfilter's IP hooks, in
	// labs that show the difference: no br_netfilter, or its sysctls at 0.
	NoBridgeNetfilter bool
	// External is how the Meridio lab's load balancer and gateway are connected:
	// "vlan" or "vxlan". Default: a veth pair.
	External string
}

// World is a lab that is up. It is safe for concurrent use, except for Down.
type World struct {
	lab    *lab
	record record
	nodes  map[string]*node
	use    *os.File // lock; nil when the world was loaded
}

// node is one namespace of a world.
type node struct {
	ns *os.File
	nl *netlink.Handle
}

func (n *node) handle() netns.NsHandle { return netns.NsHandle(n.ns.Fd()) }

// Up builds the lab and starts its processes. It waits for the lab's turn until
// ctx is done: one program at a time uses a lab, from Up to Down. What a crashed
// program left is removed first; a lab left up is ErrUp. On any error, and when
// ctx ends while building, nothing is left.
//
// Errors about missing rights answer to errors.Is(err, fs.ErrPermission).
func Up(ctx context.Context, o Options) (*World, error) {
	l, err := findLab(o.Lab)
	if err != nil {
		return nil, err
	}
	if l, err = l.with(o.External); err != nil {
		return nil, err
	}
	if err := needRoot(); err != nil {
		return nil, err
	}
	if o.Balancer != "" && !l.balancer {
		return nil, fmt.Errorf("lab %s has no balancer that could be another one", l.name)
	}
	if o.NoBridgeNetfilter && !l.bridgeNetfilter {
		return nil, fmt.Errorf("br_netfilter is no matter in lab %s", l.name)
	}
	if o.Executable == "" {
		if o.Executable, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	for _, path := range []*string{&o.Executable, &o.Balancer} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
		if _, err := os.Stat(*path); err != nil {
			return nil, err
		}
	}
	if l.lacks != nil {
		if err := l.lacks(); err != nil {
			return nil, fmt.Errorf("lab %s: %w", l.name, err)
		}
	}
	use, err := l.lockUse(ctx)
	if err != nil {
		return nil, err
	}
	w := &World{lab: l, nodes: map[string]*node{}, use: use}
	w.record = record{Executable: o.Executable, Balancer: o.Balancer, External: o.External, NoBridgeNetfilter: o.NoBridgeNetfilter}
	if err := w.up(ctx); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (w *World) up(ctx context.Context) error {
	lock, err := lockState(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()

	old, err := w.lab.readRecord()
	if err != nil {
		return err
	}
	if old != nil && old.Complete {
		return fmt.Errorf("%w; `waymark lab down %s` takes it down", ErrUp, w.lab.name)
	}
	if err := w.lab.remove(); err != nil {
		return fmt.Errorf("remove what a crash left: %w", err)
	}
	if err := w.construct(ctx); err != nil {
		return errors.Join(err, w.lab.remove())
	}
	return nil
}

func (w *World) construct(ctx context.Context) error {
	if err := os.MkdirAll(w.dir(), 0o755); err != nil {
		return err
	}
	if err := w.save(); err != nil {
		return err
	}
	if err := w.claimFiles(); err != nil {
		return err
	}
	if err := w.build(ctx, w.lab.plan); err != nil {
		return err
	}
	if err := w.lab.start(ctx, w); err != nil {
		return err
	}
	w.record.Complete = true
	return w.save()
}

// Load opens a lab that is up, whoever brought it up.
func Load(name string) (*World, error) {
	l, err := findLab(name)
	if err != nil {
		return nil, err
	}
	if err := needRoot(); err != nil {
		return nil, err
	}
	r, err := l.readRecord()
	if err != nil {
		return nil, err
	}
	if r == nil || !r.Complete {
		return nil, fmt.Errorf("%w; `waymark lab up %s` brings it up", ErrNotUp, name)
	}
	if l, err = l.with(r.External); err != nil {
		return nil, err
	}
	w := &World{lab: l, record: *r, nodes: map[string]*node{}}
	for _, n := range l.plan.nodes {
		if err := w.open(n); err != nil {
			w.Close()
			return nil, fmt.Errorf("lab %s is damaged: %w; take it down and up again", name, err)
		}
	}
	return w, nil
}

// Down takes a lab down: processes, namespaces, shared memory, state. It removes
// half-built and crashed labs as well, and a lab that is not up is no error.
func Down(name string) error {
	l, err := findLab(name)
	if err != nil {
		return err
	}
	if err := needRoot(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), downTimeout)
	defer cancel()
	lock, err := lockState(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	return l.remove()
}

// Down takes the world down and closes w.
func (w *World) Down() error {
	err := Down(w.lab.name)
	w.Close()
	return err
}

// Close gives up the world without taking it down.
func (w *World) Close() {
	for _, n := range w.nodes {
		if n.nl != nil {
			n.nl.Close()
		}
		n.ns.Close()
	}
	clear(w.nodes)
	if w.use != nil {
		w.use.Close()
		w.use = nil
	}
}

// remove leaves nothing of the lab. It does what it can and returns all errors.
func (l *lab) remove() error {
	recorded, err := l.processes()
	errs := []error{err}
	// Marked processes come last: a recorded one that is killed first cannot
	// start another meanwhile.
	for _, p := range recorded {
		errs = append(errs, p.kill())
	}
	for _, p := range l.marked() {
		errs = append(errs, p.kill())
	}
	for _, n := range l.plan.nodes {
		errs = append(errs, removeNamespace(l.namespace(n)))
	}
	errs = append(errs, l.removeFiles(), l.unloadModules(), l.restoreConnectionLimit())
	if err := errors.Join(errs...); err != nil {
		return err // keep the state, so that another down can finish
	}
	return os.RemoveAll(l.dir())
}

// open opens the namespace of a node and a netlink socket in it.
func (w *World) open(name string) error {
	ns, err := os.Open(filepath.Join(NamespaceDir, w.lab.namespace(name)))
	if err != nil {
		return err
	}
	n := &node{ns: ns}
	w.nodes[name] = n
	n.nl, err = netlink.NewHandleAt(n.handle(), unix.NETLINK_ROUTE)
	return wrap("open netlink in "+name, err)
}

// needRoot is asked before anything is done: the libraries below lose the reason
// why the kernel refused to enter a namespace.
func needRoot() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("a lab is made of network namespaces; run this as root: %w", fs.ErrPermission)
	}
	return nil
}

// Name is the lab's name.
func (w *World) Name() string { return w.lab.name }

// Notes say what this kernel could not do of the lab, one line each.
func (w *World) Notes() []string { return w.record.Notes }

// Nodes are the short names of the world's namespaces.
func (w *World) Nodes() []string { return w.lab.plan.nodes }

// Namespace is the full name, in /run/netns, of a node's namespace.
func (w *World) Namespace(node string) string { return w.lab.namespace(node) }

// Inside runs f on a thread in the namespace of node: sockets that f opens and
// processes it starts are the node's. f must return; it must not call t.Fatal.
func (w *World) Inside(node string, f func() error) error {
	n := w.nodes[node]
	if n == nil {
		return fmt.Errorf("node %q of lab %s: %w", node, w.lab.name, ErrUnknown)
	}
	return inside(n.ns, f)
}

// Processes are the processes of the world that run now.
func (w *World) Processes() ([]Process, error) {
	all, err := w.lab.processes()
	if err != nil {
		return nil, err
	}
	var alive []Process
	for _, p := range all {
		if p.running() {
			alive = append(alive, p)
		}
	}
	return alive, nil
}

// note remembers something this kernel cannot do.
func (w *World) note(format string, args ...any) {
	w.record.Notes = append(w.record.Notes, fmt.Sprintf(format, args...))
}
