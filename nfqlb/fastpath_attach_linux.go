// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The fast path on devices. They may come, go and be renamed at any time, and
// so may rules and routes: whatever the kernel reports, all is looked at anew,
// and once a second besides, for what is not reported.

// fastDevice is a device the entry program is attached to.
type fastDevice struct {
	name   string
	tcx    link.Link
	filter *netlink.BpfFilter // before 6.6
}

// fastFilter is what a cls_bpf filter is called and where it stands: behind
// those of tracers, which want to see the packet as it came. The number is
// fixed, so that the filter of a balancer that died is replaced.
const (
	fastFilterName     = "waymark-fastpath"
	fastFilterPriority = 49153
	fastFilterHandle   = 1
)

// Run attaches the fast path to the devices until ctx ends and calls ready when
// it has looked for them the first time. Then it takes everything off: each
// packet goes through the queue again.
func (f *FastPath) Run(ctx context.Context, ready func()) error {
	changes, end, err := f.watch()
	if err != nil {
		return err
	}
	defer end()
	h, err := f.handle()
	if err != nil {
		return err
	}
	defer h.Close()
	devices := make(map[int]*fastDevice)
	for {
		f.followDevices(h, devices)
		f.tellPass(f.passMarked())
		if f.config.Redirect {
			f.useRoutes(f.readRoutes(h))
		}
		if ready != nil {
			ready()
			ready = nil
		}
		select {
		case <-changes:
		case <-time.After(time.Second):
		case <-ctx.Done():
			var err error
			for index := range devices {
				err = errors.Join(err, f.detach(h, devices[index]))
			}
			return errors.Join(err, f.removePass())
		}
	}
}

// tellPass logs what became of our rule, if that is new.
func (f *FastPath) tellPass(err error) {
	text := fmt.Sprint(err)
	if text == f.pass {
		return
	}
	f.pass = text
	if err != nil {
		f.config.Log("packets go through the queue although the fast path marked them", err)
		return
	}
	f.config.Log("packets that the fast path marked pass the queue by", nil)
}

// inNetNS runs fn in the fast path's network namespace.
func (f *FastPath) inNetNS(fn func() error) error {
	if f.config.NetNS == 0 {
		return fn()
	}
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := netns.Set(netns.NsHandle(f.config.NetNS)); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = fn()
	if back := netns.Set(home); back != nil {
		return errors.Join(err, back) // the thread is lost with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

func (f *FastPath) handle() (h *netlink.Handle, err error) {
	err = f.inNetNS(func() error {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fast path: netlink: %w", err)
	}
	return h, nil
}

// watch tells when devices, addresses, routes, rules or nftables change.
func (f *FastPath) watch() (changes <-chan struct{}, end func(), err error) {
	var sockets []*nl.NetlinkSocket
	end = func() {
		for _, s := range sockets {
			s.Close()
		}
	}
	changed := make(chan struct{}, 1)
	err = f.inNetNS(func() error {
		for _, w := range []struct {
			protocol int
			groups   []uint
		}{
			{unix.NETLINK_ROUTE, []uint{
				unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
				unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
			}},
			{unix.NETLINK_NETFILTER, []uint{unix.NFNLGRP_NFTABLES}},
		} {
			s, err := nl.Subscribe(w.protocol, w.groups...)
			if err != nil {
				return fmt.Errorf("fast path: watch for changes: %w", err)
			}
			sockets = append(sockets, s)
		}
		return nil
	})
	if err != nil {
		end()
		return nil, nil, err
	}
	for _, s := range sockets {
		go func() {
			for {
				// ENOBUFS: more changed than the socket holds.
				if _, _, err := s.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
					return
				}
				select {
				case changed <- struct{}{}:
				default:
				}
			}
		}()
	}
	return changed, end, nil
}

// followDevices attaches to the devices that match and forgets those that are
// gone.
func (f *FastPath) followDevices(h *netlink.Handle, devices map[int]*fastDevice) {
	links, err := h.LinkList()
	if err != nil {
		f.config.Log("devices cannot be listed", err)
		return
	}
	there := make(map[int]bool)
	for _, l := range links {
		a := l.Attrs()
		if !f.serves(a.Name) || a.EncapType != "ether" {
			continue
		}
		there[a.Index] = true
		if devices[a.Index] != nil {
			continue
		}
		d, err := f.attach(h, a)
		if err != nil {
			err = fmt.Errorf("attach to %s: %w", a.Name, err)
			f.config.Log("the fast path does not serve a device", err)
			d = &fastDevice{name: a.Name} // once is enough
		} else {
			f.config.Log("the fast path serves "+a.Name, nil)
		}
		devices[a.Index] = d
	}
	for index, d := range devices {
		if !there[index] {
			_ = f.detach(h, d) // most often it is gone
			f.config.Log("the fast path serves "+d.name+" no more", nil)
			delete(devices, index)
		}
	}
}

func (f *FastPath) serves(device string) bool {
	for _, pattern := range f.config.Devices {
		if ok, _ := path.Match(pattern, device); ok {
			return true
		}
	}
	return false
}

// attach puts the deciding program behind others on the device: itself by tcx,
// where another can replace it and which ends with this process, else by the
// entry program, which asks the map for it.
func (f *FastPath) attach(h *netlink.Handle, a *netlink.LinkAttrs) (*fastDevice, error) {
	d := &fastDevice{name: a.Name}
	f.b.mu.Lock()
	defer f.b.mu.Unlock()
	if f.program == nil {
		return nil, errors.New("there is no program to attach")
	}
	err := f.inNetNS(func() (err error) {
		d.tcx, err = link.AttachTCX(link.TCXOptions{
			Interface: a.Index, Program: f.program, Attach: ebpf.AttachTCXIngress, Anchor: link.Tail(),
		})
		return err
	})
	if err == nil {
		f.links[d.tcx] = true
	}
	if err == nil || !errors.Is(err, link.ErrNotSupported) {
		return d, err
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: a.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := h.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("add a clsact qdisc: %w", err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: a.Index, Parent: netlink.HANDLE_MIN_INGRESS, Protocol: unix.ETH_P_ALL,
			Priority: fastFilterPriority, Handle: fastFilterHandle,
		},
		Fd: f.entry.FD(), Name: fastFilterName, DirectAction: true,
	}
	if err := h.FilterReplace(filter); err != nil {
		return nil, fmt.Errorf("add a cls_bpf filter: %w", err)
	}
	d.filter = filter
	return d, nil
}

// detach takes the program off. A clsact qdisc stays: others may use it; and so
// does the filter if the next balancer has put its own in its place.
func (f *FastPath) detach(h *netlink.Handle, d *fastDevice) error {
	if d.tcx != nil {
		f.b.mu.Lock()
		defer f.b.mu.Unlock()
		delete(f.links, d.tcx)
		return d.tcx.Close()
	}
	if d.filter == nil {
		return nil
	}
	if !f.owns(h, d.filter) {
		return nil
	}
	if err := h.FilterDel(d.filter); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove the cls_bpf filter from %s: %w", d.name, err)
	}
	return nil
}

// owns tells whether the filter runs this process's program.
func (f *FastPath) owns(h *netlink.Handle, filter *netlink.BpfFilter) bool {
	info, err := f.entry.Info()
	if err != nil {
		return false
	}
	id, ok := info.ID()
	filters, err := h.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: filter.LinkIndex}}, filter.Parent)
	return ok && err == nil && slices.ContainsFunc(filters, func(other netlink.Filter) bool {
		b, is := other.(*netlink.BpfFilter)
		return is && b.Priority == filter.Priority && b.Handle == filter.Handle && b.Id == int(id)
	})
}
