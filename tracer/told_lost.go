// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

// What the sink is told of a namespace when it lost a packet: state that changes
// without a notification, and is too much to be read all the time.

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"waymark/decoder"
	"waymark/tracer/place"
)

// causes are what may explain a loss, by the function that freed the packet.
type causes uint8

const (
	byQueue   causes = 1 << iota // an NFQUEUE, and the balancer behind it
	byChain                      // chains, conntrack, IPVS
	byTable                      // addresses and services: IPVS, ARP, br_netfilter
	byService                    // a service of IPVS, which few kernels have
)

// causesAt looks a function up: net/netfilter/nf_queue.c and nfnetlink_queue.c
// drop for want of a listener or by a verdict, core.c and nf_tables_core.c by the
// hooks' verdict; the rest found nobody who wants the packet.
func causesAt(function string) causes {
	for _, row := range []struct {
		cause    causes
		prefixes []string
	}{
		{byQueue, []string{"nf_queue", "__nf_queue", "nf_reinject", "nfqnl_", "__nfqnl_"}},
		{byChain, []string{"nf_hook_slow", "nft_do_chain"}},
		{byTable, []string{"tcp_v4_rcv", "tcp_v6_rcv", "__udp4_lib_rcv", "__udp6_lib_rcv", "udp_", "ip_rcv_finish"}},
		{byService, []string{"ip_forward", "ip6_forward"}},
	} {
		for _, p := range row.prefixes {
			if strings.HasPrefix(function, p) {
				return row.cause
			}
		}
	}
	return 0
}

// anyDirector tells whether a namespace has IPVS services.
func (s *stream) anyDirector() bool {
	for _, t := range s.places {
		if t.directs() {
			return true
		}
	}
	return false
}

// toldLost is what the sink knows of it.
type toldLost struct {
	sysctls  map[string]string
	chains   []decoder.Chain
	ipvs     *decoder.IPVS
	entries  map[decoder.IPVSEntry]bool // that were told, without their state
	next     [2]uint64                  // boot time of the next look, without chains and with them
	director bool                       // it had IPVS services when its devices or routes last changed
}

// Of what is read for a loss: how old it may be, and that reading takes at most
// one part in so many of the time, however long the tables are.
const (
	lostStateAge  = stateLookEvery
	lostStatePart = 5
)

// refreshLost looks again at the state of a namespace that lost a packet at time
// now, before that is told, and at those that explain what others lose.
func (s *stream) refreshLost(inode uint32, now uint64, cause causes) error {
	t := s.places[inode]
	if t == nil || t.ns.Path == "" {
		return nil
	}
	kind, chains := 0, cause&byChain != 0
	if chains {
		kind = 1
	}
	if now < t.lost.next[kind] {
		return nil
	}
	if cause == byService && !s.anyDirector() {
		t.lost.next[kind] = bootTime() + uint64(lostStateAge)
		return nil
	}
	start := time.Now()
	l, err := place.ReadLost(t.ns, t.deviceList(), chains, t.directs())
	if err != nil {
		return nil // gone; the next scan takes it out
	}
	if err := s.tellLost(t, &l, chains); err != nil {
		return err
	}
	for _, other := range s.places {
		if other == t || other.ns.Path == "" || !other.explains() {
			continue
		}
		if !other.active { // no record came from there
			if err := s.activate(other.ns.Inode); err != nil {
				return err
			}
		}
		if l, err := place.ReadLost(other.ns, other.deviceList(), false, other.directs()); err == nil {
			if err := s.tellLost(other, &l, false); err != nil {
				return err
			}
		}
	}
	t.lost.next[kind] = bootTime() + max(uint64(lostStateAge), uint64(lostStatePart*time.Since(start)))
	return nil
}

func (s *stream) tellLost(t *told, l *place.Lost, chains bool) error {
	if !reflect.DeepEqual(t.lost.sysctls, l.Sysctls.Values) {
		t.lost.sysctls = l.Sysctls.Values
		if err := s.context(&decoder.Context{Sysctls: &l.Sysctls}); err != nil {
			return err
		}
	}
	if chains && !reflect.DeepEqual(t.lost.chains, l.Chains.Chains) {
		t.lost.chains = l.Chains.Chains
		if err := s.context(&decoder.Context{Chains: &l.Chains}); err != nil {
			return err
		}
	}
	if err := s.tellIPVS(t, l.IPVS); err != nil {
		return err
	}
	return s.tellEntries(t, l.Entries)
}

// tellEntries tells of a director's connections when there are new ones. Those that
// end, or come into another state, would make one long context after the other.
func (s *stream) tellEntries(t *told, all *decoder.IPVSEntries) error {
	if all == nil {
		return nil
	}
	here := make(map[decoder.IPVSEntry]bool, len(all.Entries))
	isNew := false
	for _, e := range all.Entries {
		e.State = ""
		here[e] = true
		isNew = isNew || !t.lost.entries[e]
	}
	if !isNew {
		return nil
	}
	t.lost.entries = here
	return s.context(&decoder.Context{IPVSEntries: all})
}

// tellIPVS tells of a table. That of a namespace that never had a service is not
// told: where the kernel has IPVS, every namespace has an empty one.
func (s *stream) tellIPVS(t *told, table *decoder.IPVS) error {
	if table == nil || t.lost.ipvs == nil && len(table.Services) == 0 || reflect.DeepEqual(t.lost.ipvs, table) {
		return nil
	}
	t.lost.ipvs = table
	return s.context(&decoder.Context{IPVS: table})
}

// lookForDirector notes a namespace with IPVS services.
func (t *told) lookForDirector() {
	if t.lost.director {
		return
	}
	table, err := place.ReadIPVS(t.ns)
	t.lost.director = err == nil && table != nil && len(table.Services) > 0
}

// explains tells whether what is lost elsewhere may be explained with its state:
// with what a director sends there, and with the settings of a bridge that is the
// gateway.
func (t *told) explains() bool { return t.directs() || t.isGateway() }

// directs tells a namespace that has, or had, services of IPVS.
func (t *told) directs() bool { return t.lost.director || t.lost.ipvs != nil }

// isGateway tells a namespace with a bridge that others may have as a gateway.
func (t *told) isGateway() bool {
	return slices.ContainsFunc(t.deviceList(), func(d decoder.Device) bool { return d.Kind == "bridge" && len(d.Addrs) > 0 })
}

func (t *told) deviceList() []decoder.Device {
	if t.state == nil {
		return nil
	}
	return t.state.Devices
}
