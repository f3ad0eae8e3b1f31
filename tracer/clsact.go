// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Before 6.6 there is no tcx, and a classifier outlives the process that
// attached it. So each of ours carries its owner in its name:
// "waymark-PID-STARTTIME", and "waymark-PID-STARTTIME-q" where the clsact
// qdisc is ours as well. Whoever finds one whose owner is dead removes it,
// and nothing else.
const ownerPrefix = "waymark-"

// clsactPriority is after those of CNIs, which start at 1: we look last at
// ingress. A CNI that ends the chain before us hides nothing on egress of the
// next device.
const clsactPriority = 49152

// owner is this process's mark: pid and start time in clock ticks.
func owner() string {
	return ownerPrefix + strconv.Itoa(os.Getpid()) + "-" + startTime(os.Getpid())
}

// startTime is field 22 of /proc/PID/stat (proc(5)), "" if there is no such
// process. With the pid it names a process once and for all.
func startTime(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// The command, field 2, may hold anything; it ends with the last ')'.
	i := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[i+1:]))
	if i < 0 || len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// ownerAlive tells whether the process that a name marks still runs.
func ownerAlive(name string) bool {
	parts := strings.Split(strings.TrimPrefix(name, ownerPrefix), "-")
	if len(parts) < 2 {
		return false
	}
	pid, err := strconv.Atoi(parts[0])
	return err == nil && startTime(pid) == parts[1]
}

// clsactLink is a program attached as a cls_bpf filter.
type clsactLink struct {
	filter netlink.BpfFilter
	qdisc  bool // the qdisc is ours too
}

// attachClsact attaches prog to a device of the namespace the calling thread
// is in.
func attachClsact(index int, prog *ebpf.Program, parent uint32) (*clsactLink, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	l := &clsactLink{}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	switch err := h.QdiscAdd(qdisc); {
	case err == nil:
		l.qdisc = true
	case errors.Is(err, unix.EEXIST):
		l.qdisc = ownsQdisc(h, index)
	default:
		return nil, fmt.Errorf("add a clsact qdisc: %w", err)
	}
	name := owner()
	if l.qdisc {
		name += "-q"
	}
	l.filter = netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: parent, Handle: uint32(os.Getpid()), Priority: clsactPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: prog.FD(), Name: name, DirectAction: true,
	}
	if err := h.FilterAdd(&l.filter); err != nil {
		return nil, fmt.Errorf("add a cls_bpf filter: %w", err)
	}
	return l, nil
}

// ownsQdisc tells whether a filter of this process on the device says that
// the qdisc is ours: the second of our two filters finds the first.
func ownsQdisc(h *netlink.Handle, index int) bool {
	owns := false
	eachFilter(h, index, func(f *netlink.BpfFilter) {
		owns = owns || f.Name == owner()+"-q"
	})
	return owns
}

// detachClsact removes what attachClsact made; the qdisc when it was ours and
// nothing else hangs on it. Same namespace as when attaching.
func detachClsact(l *clsactLink) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	if err := h.FilterDel(&l.filter); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove the cls_bpf filter: %w", err)
	}
	if l.qdisc {
		removeEmptyQdisc(h, l.filter.LinkIndex)
	}
	return nil
}

func removeEmptyQdisc(h *netlink.Handle, index int) {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := h.FilterList(linkByIndex(index), parent)
		if err != nil || len(filters) > 0 {
			return
		}
	}
	_ = h.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
}

// removeLeftovers removes filters whose owner is dead from a device of the
// namespace the calling thread is in, and says how many there were.
func removeLeftovers(index int) int {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0
	}
	defer h.Close()
	n, qdisc := 0, false
	eachFilter(h, index, func(f *netlink.BpfFilter) {
		if !strings.HasPrefix(f.Name, ownerPrefix) || ownerAlive(f.Name) {
			return
		}
		qdisc = qdisc || strings.HasSuffix(f.Name, "-q")
		if h.FilterDel(f) == nil {
			n++
		}
	})
	if qdisc {
		removeEmptyQdisc(h, index)
	}
	return n
}

func eachFilter(h *netlink.Handle, index int, fn func(*netlink.BpfFilter)) {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := h.FilterList(linkByIndex(index), parent)
		if err != nil {
			continue // no clsact here
		}
		for _, f := range filters {
			if b, ok := f.(*netlink.BpfFilter); ok {
				fn(b)
			}
		}
	}
}

func linkByIndex(index int) netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
}
