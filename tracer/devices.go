// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"errors"
	"fmt"
	"path"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"waymark/decoder"
	"waymark/tracer/place"
)

// DefaultDevices are the patterns of devices that are traced unless told
// otherwise: those of Meridio, of kubenet and GKE nodes, of IPVS directors, and what
// nodes have outside of these.
var DefaultDevices = []string{
	"nsm-*", "ext*", "load-balan-*", "proxy.load-*", "bridge0", "cbr0", "nsc", "eth*", "veth*", "po0", "cali*",
	"vxlan*", "flannel*", "en[opsx]*", "bond*",
}

// MatchDevice tells whether a device name matches one of the patterns
// (path.Match syntax).
func MatchDevice(patterns []string, name string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	return false
}

// CheckPatterns returns an error for the first pattern that is none.
func CheckPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, "x"); err != nil {
			return fmt.Errorf("bad device pattern %q: use * ? and [a-z] as in a shell", p)
		}
	}
	return nil
}

// deviceKey is a device over namespaces.
type deviceKey struct{ netns, index uint32 }

// deviceLinks are the two programs on one device.
type deviceLinks struct {
	ns     place.Namespace
	tcx    []link.Link
	clsact []*clsactLink
}

// attacher puts the device programs on devices, by tcx where there is tcx.
type attacher struct {
	ingress, egress *ebpf.Program
	haveTCX         bool
	links           map[deviceKey]*deviceLinks
}

func newAttacher(p *programs) *attacher {
	a := &attacher{links: map[deviceKey]*deviceLinks{}}
	if len(p.running["ingress"]) > 0 { // devices are wanted
		a.ingress, a.egress = p.running["ingress"][0], p.running["egress"][0]
		a.haveTCX = HaveTCX(a.ingress) == nil
	}
	return a
}

// HaveTCX returns nil if the kernel has tcx links. It asks to attach prog, a
// TC program, to a device that cannot exist.
func HaveTCX(prog *ebpf.Program) error {
	const noSuchIndex = 0x7fffffff
	l, err := link.AttachTCX(link.TCXOptions{Interface: noSuchIndex, Program: prog, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		l.Close()
		return nil
	}
	if errors.Is(err, link.ErrNotSupported) {
		return err
	}
	return nil
}

// attach puts both programs on d. The programs read Ethernet frames: a device
// without a link header (tun, ipip) is refused.
func (a *attacher) attach(ns place.Namespace, d decoder.Device) error {
	key := deviceKey{ns.Inode, d.Index}
	if a.links[key] != nil {
		return nil
	}
	l := &deviceLinks{ns: ns}
	err := ns.Do(func() error {
		removeLeftovers(int(d.Index))
		if a.haveTCX {
			return a.attachTCX(l, int(d.Index))
		}
		return a.attachClsact(l, int(d.Index))
	})
	if err != nil {
		l.close()
		return fmt.Errorf("attach to %s/%s: %w", ns.Name, d.Name, err)
	}
	a.links[key] = l
	return nil
}

func (a *attacher) attachTCX(l *deviceLinks, index int) error {
	// First at ingress and last at egress: the packet as it crosses the wire.
	in, err := link.AttachTCX(link.TCXOptions{
		Interface: index, Program: a.ingress, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
	})
	if err != nil {
		return err
	}
	l.tcx = append(l.tcx, in)
	out, err := link.AttachTCX(link.TCXOptions{
		Interface: index, Program: a.egress, Attach: ebpf.AttachTCXEgress, Anchor: link.Tail(),
	})
	if err != nil {
		return err
	}
	l.tcx = append(l.tcx, out)
	return nil
}

func (a *attacher) attachClsact(l *deviceLinks, index int) error {
	for _, side := range []struct {
		prog   *ebpf.Program
		parent uint32
	}{{a.ingress, netlink.HANDLE_MIN_INGRESS}, {a.egress, netlink.HANDLE_MIN_EGRESS}} {
		c, err := attachClsact(index, side.prog, side.parent)
		if err != nil {
			return err
		}
		l.clsact = append(l.clsact, c)
	}
	return nil
}

// detach takes the programs off a device, which may be gone already.
func (a *attacher) detach(key deviceKey) {
	if l := a.links[key]; l != nil {
		l.close()
		delete(a.links, key)
	}
}

func (a *attacher) close() {
	for key := range a.links {
		a.detach(key)
	}
}

func (l *deviceLinks) close() {
	for _, t := range l.tcx {
		t.Close()
	}
	if len(l.clsact) == 0 {
		return
	}
	// If the namespace is gone so is everything in it.
	_ = l.ns.Do(func() error {
		for _, c := range l.clsact {
			_ = detachClsact(c)
		}
		return nil
	})
}
