// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Faults: named ways to break a world, each with the answer an observer of the
// packets must give.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Fault is one row of a lab's fault table.
type Fault struct {
	Name     string `json:"fault"`
	Question string `json:"question"`       // number in the question table, "M32"
	Also     string `json:"also,omitempty"` // another one that the same answer settles
	Brief    string `json:"brief"`
	// Traffic are arguments for `waymark lab traffic` that show the fault.
	Traffic []string `json:"traffic"`
	Expect  Expect   `json:"expect"`
	// KernelPorts: the kernel must choose the ports that connections come from;
	// whoever brings his own is not harmed.
	KernelPorts bool `json:"kernel_ports,omitempty"`

	// break_ and fix change the world. Both may be called in any state: they
	// make a state, they do not toggle one.
	break_ func(context.Context, *World) error
	fix    func(context.Context, *World) error
	// needs, unless nil, says what a world lacks in which the fault would break
	// nothing.
	needs func(*World) error
}

// Expect is what an observer must find while a fault is set.
type Expect struct {
	Outcome string `json:"outcome"` // of a journey: "dropped", or of a silent loss "delivered" or "open"
	// Packet says which way the lost packet goes: "request" or "reply".
	Packet string `json:"packet"`
	Netns  string `json:"netns"`           // full name of the namespace of the drop
	Dev    string `json:"dev"`             // device the lost packet belongs to there; "": it never was sent
	Drops  []Site `json:"drops,omitempty"` // where, on the kernels that were measured
	// Silent are the IP versions of whose packets no kernel frees any: what an
	// observer finds is read from the state of Netns.
	Silent []int `json:"silent,omitempty"`
	// Wait is how long the kernel keeps the packet before it gives it up, if long.
	Wait   time.Duration `json:"wait_ns,omitempty"`
	Advice string        `json:"advice"`
	// Because and Fix are words of what waymark says of it: why the packet was
	// lost, and what mends it.
	Because string `json:"because,omitempty"`
	Fix     string `json:"fix,omitempty"`
}

// Site is where a family of kernels frees the lost packet and why it says so,
// as in the tracepoint skb:kfree_skb.
type Site struct {
	Kernel string `json:"kernel"`        // "6.12"
	IP     int    `json:"ip"`            // 4 or 6
	Dev    string `json:"dev,omitempty"` // if it is another one than Expect.Dev
	Reason string `json:"reason"`        // without the prefix SKB_DROP_REASON_
	// Or is the reason of packets that waited behind the first one, if another.
	Or string `json:"or,omitempty"`
	// At are functions, any of which may hold the call; the compiler may have
	// added a suffix like .constprop.0 to the name.
	At []string `json:"at"`
}

// Is tells whether a packet was freed at s, by its reason and the function's name.
func (s Site) Is(reason, function string) bool {
	return (reason == s.Reason || s.Or != "" && reason == s.Or) && slices.Contains(s.At, function)
}

// Fault breaks the world in the way called name; setting a fault twice is no
// error, and several may be set together.
func (w *World) Fault(ctx context.Context, name string) error {
	f, err := w.lab.findFault(name)
	if err != nil {
		return err
	}
	if f.needs != nil {
		if err := f.needs(w); err != nil {
			return wrap("set fault "+name, err)
		}
	}
	lock, err := lockState(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()

	// Written down first: after a crash in between, clearing must know it.
	active := w.lab.activeFaults()
	if !slices.Contains(active, name) {
		if err := w.saveFaults(append(active, name)); err != nil {
			return err
		}
	}
	return wrap("set fault "+name, f.break_(ctx, w))
}

// Clear repairs the fault called name, or every fault when name is empty.
// Clearing what is not set is no error.
func (w *World) Clear(ctx context.Context, name string) error {
	if name != "" {
		if _, err := w.lab.findFault(name); err != nil {
			return err
		}
	}
	lock, err := lockState(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()

	var errs []error
	var kept []*Fault
	// In the order of the table: repairs that others need come first in it.
	active := w.lab.activeFaults()
	for i := range w.lab.faults {
		f := &w.lab.faults[i]
		if !slices.Contains(active, f.Name) {
			continue
		}
		if name != "" && f.Name != name {
			kept = append(kept, f)
			continue
		}
		if err := f.fix(ctx, w); err != nil {
			errs = append(errs, wrap("clear fault "+f.Name, err))
			kept = append(kept, f)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err // everything stays listed, so that clearing can be repeated
	}
	// A repair may have mended more than its own fault: break the rest again.
	names := []string{}
	for _, f := range kept {
		names = append(names, f.Name)
		if err := f.break_(ctx, w); err != nil {
			return wrap("keep fault "+f.Name, err)
		}
	}
	return w.saveFaults(names)
}

// Active are the names of the faults that are set.
func (w *World) Active() []string { return w.lab.activeFaults() }

func (l *lab) findFault(name string) (*Fault, error) {
	var names []string
	for i := range l.faults {
		if l.faults[i].Name == name {
			return &l.faults[i], nil
		}
		names = append(names, l.faults[i].Name)
	}
	return nil, fmt.Errorf("fault %q of lab %s: %w; there is %s", name, l.name, ErrUnknown, strings.Join(names, ", "))
}
