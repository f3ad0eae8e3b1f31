// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what contexts may make the stitcher remember. A host has fewer of
// each; a broken or hostile recording must not eat the memory.
const (
	maxNamespaces = 1 << 16
	maxDevices    = 1 << 14 // per namespace
	maxSymbols    = 1 << 16
	maxLosses     = 4096
	maxRules      = 1 << 16
	maxTexts      = 1 << 12
)

// world is what the contexts have said so far.
type world struct {
	session Session
	views   map[uint32]*view
	changes uint64 // of what explains losses, so far
	symbols map[uint64]string
	reasons map[uint32]string
	macs    map[string]*Device
	bridges map[netip.Addr]*Device // by their addresses, some of which may be gone
	rules   map[netfilterRuleID]*NetfilterRule
	losses  []Loss // those that journeys still to be told may have had
	budget  budgeting

	texts   map[string]string // explanations: those of a flood are the same text
	scratch []byte

	directors []uint32 // namespaces that have told of IPVS

	owners    owners
	listeners map[listenerKey]uint64 // inode of the socket
}

// netfilterRuleID names a rule of nftables for ever.
type netfilterRuleID struct {
	netns       uint32
	table, rule uint64 // handles
}

// view is one namespace as it was known at some point of the stream. A record
// keeps the view of its time: once a record has one it is never changed again,
// a newer context makes a copy.
type view struct {
	inode    uint32
	name     Namespace
	devices  map[uint32]*Device
	routing  *Routing
	balancer *Balancer
	queues   *Queues
	sysctls  *Sysctls
	chains   *Chains
	ipvs     *IPVS
	entries  *IPVSEntries

	// What held before the last change of each.
	oldRouting  *Routing
	oldBalancer *Balancer

	// The latest rules and routes with the present ones, oldest first.
	routingLog []datedRouting

	shared bool // a record refers to it
}

// datedRouting is rules and routes, and when they were found.
type datedRouting struct {
	routing *Routing
	at      uint64 // boot clock ns
}

// maxRoutingLog is how many changes are remembered to say since when: what undoes
// a thing often takes several.
const maxRoutingLog = 8

func (v *view) logRouting(r *Routing, at uint64) {
	keep := v.routingLog[max(0, len(v.routingLog)-maxRoutingLog+1):]
	v.routingLog = append(slices.Clone(keep), datedRouting{r, at}) // other views have the old one
}

// since is when the present rules and routes came to be bad; 0: they are not, or
// nobody saw them while they were good.
func (v *view) since(bad func(*Routing) bool) (at uint64) {
	for _, l := range slices.Backward(v.routingLog) {
		if !bad(l.routing) {
			return at
		}
		at = l.at
	}
	return 0
}

func newWorld() *world {
	return &world{
		views:     map[uint32]*view{},
		symbols:   map[uint64]string{},
		reasons:   map[uint32]string{},
		macs:      map[string]*Device{},
		bridges:   map[netip.Addr]*Device{},
		rules:     map[netfilterRuleID]*NetfilterRule{},
		listeners: map[listenerKey]uint64{},
		texts:     map[string]string{},
	}
}

// apply takes one context.
func (w *world) apply(c *Context) {
	if c.Clock == nil && c.Loss == nil && c.Budget == nil && c.Process == nil {
		w.changes++
	}
	switch {
	case c.Session != nil:
		w.session = *c.Session
	case c.Namespace != nil:
		if v := w.change(c.Namespace.Inode); v != nil {
			v.name = *c.Namespace
		}
	case c.Device != nil:
		w.applyDevice(c.Device)
	case c.Routing != nil:
		if v := w.change(c.Routing.Netns); v != nil {
			v.oldRouting, v.routing = v.routing, c.Routing
			v.logRouting(c.Routing, max(c.Time, c.Routing.Read))
		}
	case c.Balancer != nil:
		if v := w.change(c.Balancer.Netns); v != nil {
			v.oldBalancer, v.balancer = v.balancer, c.Balancer
		}
	case c.Queues != nil:
		if v := w.change(c.Queues.Netns); v != nil {
			v.queues = c.Queues
		}
	case c.Sysctls != nil:
		if v := w.change(c.Sysctls.Netns); v != nil {
			v.sysctls = c.Sysctls
		}
	case c.Chains != nil:
		if v := w.change(c.Chains.Netns); v != nil {
			v.chains = c.Chains
		}
	case c.IPVS != nil:
		if v := w.change(c.IPVS.Netns); v != nil {
			v.ipvs = c.IPVS
			if !slices.Contains(w.directors, v.inode) {
				w.directors = append(w.directors, v.inode)
			}
		}
	case c.IPVSEntries != nil:
		if v := w.change(c.IPVSEntries.Netns); v != nil {
			v.entries = c.IPVSEntries
		}
	case c.Process != nil:
		w.owners.add(c.Process)
	case c.Symbol != nil:
		if len(w.symbols) < maxSymbols {
			w.symbols[c.Symbol.Addr] = c.Symbol.Name
		}
	case c.Reason != nil:
		if len(w.reasons) < maxSymbols {
			w.reasons[c.Reason.Number] = c.Reason.Name
		}
	case c.NetfilterRule != nil:
		r := c.NetfilterRule
		if len(w.rules) < maxRules {
			w.rules[netfilterRuleID{r.Netns, r.TableHandle, r.Handle}] = r
		}
	case c.Loss != nil:
		w.addLoss(*c.Loss)
	case c.Budget != nil:
		w.applyBudget(c.Budget)
	}
}

// addLoss remembers l. Of too many the two oldest become one, which names more
// journeys than it must, but never too few.
func (w *world) addLoss(l Loss) {
	if len(w.losses) == maxLosses {
		a, b := &w.losses[0], &w.losses[1]
		b.From, b.To, b.Count = min(a.From, b.From), max(a.To, b.To), a.Count+b.Count
		w.losses = slices.Delete(w.losses, 0, 1)
	}
	w.losses = append(w.losses, l)
}

// forgetLosses drops those from before t.
func (w *world) forgetLosses(t uint64) {
	w.losses = slices.DeleteFunc(w.losses, func(l Loss) bool { return l.To < t })
}

func (w *world) applyDevice(d *Device) {
	v := w.change(d.Netns)
	if v == nil {
		return
	}
	if d.Removed {
		delete(v.devices, d.Index)
		return
	}
	if len(v.devices) >= maxDevices && v.devices[d.Index] == nil {
		return
	}
	v.devices[d.Index] = d
	if d.MAC != "" && len(w.macs) < maxSymbols {
		w.macs[strings.ToLower(d.MAC)] = d
	}
	if d.Kind == "bridge" {
		for _, p := range d.Addrs {
			if len(w.bridges) < maxSymbols {
				w.bridges[p.Addr()] = d
			}
		}
	}
}

// bridgeWith is the bridge that has address a; nil: none is known.
func (w *world) bridgeWith(a netip.Addr) (*view, *Device) {
	d := w.bridges[a]
	if d == nil {
		return nil, nil
	}
	v := w.views[d.Netns]
	if v == nil {
		return nil, nil
	}
	now := v.devices[d.Index]
	if now == nil || !slices.ContainsFunc(now.Addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
		return nil, nil
	}
	return v, now
}

// change returns the namespace's view for changing: a copy if a record has the
// present one. nil: there are too many namespaces.
func (w *world) change(inode uint32) *view {
	v := w.views[inode]
	if v != nil && !v.shared {
		return v
	}
	if v == nil {
		if len(w.views) >= maxNamespaces {
			return nil
		}
		v = &view{inode: inode, devices: map[uint32]*Device{}}
		w.views[inode] = v
		return v
	}
	next := *v
	next.devices = make(map[uint32]*Device, len(v.devices))
	for i, d := range v.devices {
		next.devices[i] = d
	}
	next.shared = false
	w.views[inode] = &next
	return &next
}

// at returns the view a record of now keeps; nil if nothing is known yet.
func (w *world) at(inode uint32) *view {
	v := w.views[inode]
	if v != nil {
		v.shared = true
	}
	return v
}

// viewsOf are the record's own view and today's: contexts are read a moment
// after the change they tell about, so today's may fit better.
func (w *world) viewsOf(v *view, inode uint32) []*view {
	now := w.views[inode]
	switch {
	case v == nil && now == nil:
		return nil
	case v == nil:
		return []*view{now}
	case now == nil || now == v:
		return []*view{v}
	}
	return []*view{v, now}
}

// routings are the rule sets that may have held for a record with view v,
// likeliest first.
func (w *world) routings(v *view, inode uint32) []*Routing {
	var all, old []*Routing
	for _, v := range w.viewsOf(v, inode) {
		all, old = appendNew(all, v.routing), appendNew(old, v.oldRouting)
	}
	for _, r := range old {
		all = appendNew(all, r)
	}
	return all
}

// balancers are the balancer states that may have held, likeliest first.
func (w *world) balancers(v *view, inode uint32) []*Balancer {
	var all, old []*Balancer
	for _, v := range w.viewsOf(v, inode) {
		all, old = appendNew(all, v.balancer), appendNew(old, v.oldBalancer)
	}
	for _, b := range old {
		all = appendNew(all, b)
	}
	return all
}

func appendNew[T any](all []*T, x *T) []*T {
	if x == nil || slices.Contains(all, x) {
		return all
	}
	return append(all, x)
}

// text is b as a string, which is made once for many.
func (w *world) text(b []byte) string {
	if s, ok := w.texts[string(b)]; ok {
		return s
	}
	if len(w.texts) >= maxTexts {
		clear(w.texts)
	}
	s := string(b)
	w.texts[s] = s
	return s
}

// netns is the namespace's name and pod.
func (w *world) netns(inode uint32) (name, pod string) {
	if inode == 0 {
		return "", ""
	}
	if v := w.views[inode]; v != nil && v.name.Name != "" {
		return v.name.Name, v.name.Pod
	}
	return "ns-" + strconv.FormatUint(uint64(inode), 10), ""
}

// device finds a device in the view of the time, or in today's.
func (w *world) device(v *view, inode, index uint32) *Device {
	for _, c := range []*view{v, w.views[inode]} {
		if c == nil {
			continue
		}
		if d := c.devices[index]; d != nil {
			return d
		}
	}
	return nil
}

// hasAddress tells whether any device that is known has the address.
func (w *world) hasAddress(a netip.Addr) bool {
	for _, v := range w.views {
		for _, d := range v.devices {
			if slices.ContainsFunc(d.Addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
				return true
			}
		}
	}
	return false
}

// deviceName is the device's name, or "if7" if none is known.
func (w *world) deviceName(v *view, inode, index uint32) string {
	if index == 0 {
		return ""
	}
	if d := w.device(v, inode, index); d != nil {
		return d.Name
	}
	return "if" + strconv.FormatUint(uint64(index), 10)
}

// local tells whether a is an address of the namespace: configured on a
// device, covered by a local route, loopback, or multicast and broadcast,
// which no route decides about.
func (v *view) local(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	if a.IsLoopback() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	if v == nil {
		return false
	}
	for _, d := range v.devices {
		for _, p := range d.Addrs {
			if p.Addr() == a {
				return true
			}
		}
	}
	if v.routing == nil {
		return false
	}
	for i := range v.routing.Routes {
		r := &v.routing.Routes[i]
		if (r.Type == "local" || r.Type == "broadcast") && r.Table == tableLocal && r.Dst.Contains(a) {
			return true
		}
	}
	return false
}

// symbol is the kernel address as function+offset.
func (w *world) symbol(addr uint64) string {
	if addr == 0 {
		return ""
	}
	if s, ok := w.symbols[addr]; ok {
		return s
	}
	return "0x" + strconv.FormatUint(addr, 16)
}

// reason is the drop reason's name without prefix.
func (w *world) reason(n uint32) string {
	s, ok := w.reasons[n]
	switch {
	case !ok && n == 0:
		return "NOT_DROPPED_YET" // the one number that never changed (include/net/dropreason-core.h)
	case !ok:
		return "reason-" + strconv.FormatUint(uint64(n), 10)
	}
	s = strings.TrimPrefix(s, "SKB_DROP_REASON_")
	return strings.TrimPrefix(s, "SKB_")
}

// function is the name in a symbol, without offset, module and the suffixes
// compilers add: "ip_rcv_finish_core.constprop.0+0x1a4" is ip_rcv_finish_core.
func function(symbol string) string {
	if i := strings.IndexAny(symbol, "+ .["); i >= 0 {
		return symbol[:i]
	}
	return symbol
}

// sysctl reads a value under /proc/sys that the tracer noted; path is relative
// to it, as in "net/ipv4/ip_forward". Keys with dots instead are taken as well.
func (r *Routing) sysctl(path string) (string, bool) {
	if r == nil {
		return "", false
	}
	if s, ok := r.Sysctl[path]; ok {
		return s, true
	}
	s, ok := r.Sysctl[strings.ReplaceAll(path, "/", ".")]
	return s, ok
}
