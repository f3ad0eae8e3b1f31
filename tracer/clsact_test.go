// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/rs/zerolog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"waymark/tracer/place"
)

// filterNames lists the names of the filters on veth0, and whether there is a
// clsact qdisc.
func filterNames(t *testing.T, ns place.Namespace) (names []string, qdisc bool) {
	t.Helper()
	must(t, ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName("veth0")
		if err != nil {
			return err
		}
		eachFilter(h, l.Attrs().Index, func(f *netlink.BpfFilter) { names = append(names, f.Name) })
		qs, err := h.QdiscList(l)
		qdisc = slices.ContainsFunc(qs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" })
		return err
	}))
	slices.Sort(names)
	return names, qdisc
}

func addFilter(t *testing.T, ns place.Namespace, name string, handle uint32) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, -1), asm.Return(),
	}})
	must(t, err)
	defer prog.Close()
	must(t, ns.Do(func() error {
		l, err := netlink.LinkByName("veth0")
		if err != nil {
			return err
		}
		_ = netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}})
		return netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: handle, Priority: clsactPriority, Protocol: unix.ETH_P_ALL,
			},
			Fd: prog.FD(), Name: name, DirectAction: true,
		})
	}))
}

func indexOf(t *testing.T, ns place.Namespace) (index int) {
	t.Helper()
	must(t, ns.Do(func() error {
		l, err := netlink.LinkByName("veth0")
		if err == nil {
			index = l.Attrs().Index
		}
		return err
	}))
	return index
}

func TestLeftoversAreRemovedByTheirMarkOnly(t *testing.T) {
	w := newWorld(t)
	dead := ownerPrefix + "999999999-1-q"
	recycled := ownerPrefix + "1-1" // a pid that lives, but was another process
	alive := owner()
	for i, name := range []string{dead, recycled, alive, "cilium-from-container", "waymarkish"} {
		addFilter(t, w.a, name, uint32(i+1))
	}
	index := indexOf(t, w.a)
	must(t, w.a.Do(func() error {
		if n := removeLeftovers(index); n != 2 {
			t.Errorf("removed %d, want the two whose owners are dead", n)
		}
		return nil
	}))
	names, qdisc := filterNames(t, w.a)
	if want := []string{"cilium-from-container", alive, "waymarkish"}; !slices.Equal(names, want) || !qdisc {
		t.Errorf("left are %q, qdisc %v; want %q", names, qdisc, want)
	}
}

// TestClsactLeavesNothing: attaching by cls_bpf, as before 6.6, takes out what
// it put in, and leaves a qdisc that was there.
func TestClsactLeavesNothing(t *testing.T) {
	for name, foreign := range map[string]bool{"own qdisc": false, "foreign qdisc": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if foreign {
				addFilter(t, w.a, "foreign", 77)
			}
			p, err := load(settings{}, []string{"device"})
			must(t, err)
			defer p.close()
			a := newAttacher(p)
			a.haveTCX = false
			state, err := place.Read(w.a)
			must(t, err)
			for _, d := range state.Devices {
				if d.Name == "veth0" {
					must(t, a.attach(w.a, d))
				}
			}
			names, _ := filterNames(t, w.a)
			ours := slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, ownerPrefix) })
			if len(ours) != 2 {
				t.Errorf("attached as %q, want ingress and egress", names)
			}
			a.close()
			names, qdisc := filterNames(t, w.a)
			if foreign && (len(names) != 1 || !qdisc) || !foreign && (len(names) != 0 || qdisc) {
				t.Errorf("left: %q, qdisc %v", names, qdisc)
			}
		})
	}
}

// TestACrashedRunIsCleanedUp: what a killed tracer left on a device is gone
// when the next one attaches (tcx links need no cleaning, the kernel does it).
func TestACrashedRunIsCleanedUp(t *testing.T) {
	w := newWorld(t)
	addFilter(t, w.a, ownerPrefix+"999999999-1-q", 5)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tr, err := Open(ctx, Options{Sink: &capture{}, Netns: []string{w.a.Path}, Log: zerolog.New(zerolog.NewTestWriter(t))})
	must(t, err)
	tr.Close()
	names, qdisc := filterNames(t, w.a)
	if len(names) != 0 || qdisc {
		t.Errorf("left: %q, qdisc %v (pid %d)", names, qdisc, os.Getpid())
	}
}
