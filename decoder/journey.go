// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// Outcome is how a journey ended.
type Outcome string

// The outcomes. Their names are part of the JSON contract.
const (
	Delivered Outcome = "delivered" // reached a socket, or the kernel that answers for one
	Forwarded Outcome = "forwarded" // left by a device and was not seen again
	Dropped   Outcome = "dropped"   // the kernel threw it away
	Consumed  Outcome = "consumed"  // ended in normal use that is none of the above
	Open      Outcome = "open"      // not known to have ended
)

// Groups of hops, as `--hooks` names them.
const (
	GroupDevice    = "device"
	GroupLB        = "lb"
	GroupRoute     = "route"
	GroupQueue     = "queue"
	GroupIPVS      = "ipvs"
	GroupNetfilter = "netfilter"
	GroupNAT       = "nat"
	GroupBridge    = "bridge"
	GroupSocket    = "socket"
	GroupDrop      = "drop"
	GroupFree      = "free"
)

// WallTime is wall clock time in ns since the Unix epoch. Its text and JSON
// form is RFC 3339 with nanoseconds in UTC.
type WallTime int64

const wallFormat = "2006-01-02T15:04:05.000000000Z"

func (t WallTime) String() string {
	return time.Unix(0, int64(t)).UTC().Format(wallFormat)
}

// MarshalJSON implements json.Marshaler.
func (t WallTime) MarshalJSON() ([]byte, error) {
	return time.Unix(0, int64(t)).UTC().AppendFormat(nil, `"`+wallFormat+`"`), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *WallTime) UnmarshalJSON(b []byte) error {
	s, err := strconv.Unquote(string(b))
	if err != nil {
		return fmt.Errorf("time %s is not a JSON string", b)
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return fmt.Errorf("time %q is not RFC 3339: %w", s, err)
	}
	*t = WallTime(at.UnixNano())
	return nil
}

// Journey is one packet's way through one kernel: everything that happened to
// the skb that matched the filter and to the copies made of it.
type Journey struct {
	Type       string   `json:"type"` // "journey"
	ID         string   `json:"id"`   // NODE-TRAIL
	Node       string   `json:"node"`
	Flow       string   `json:"flow,omitempty"`  // five-tuple in the initiator's direction
	Reply      bool     `json:"reply,omitempty"` // it goes against the flow's direction
	Start      WallTime `json:"start"`
	DurationNs uint64   `json:"duration_ns"` // first to last hop
	Packet     Packet   `json:"packet"`      // as first seen
	Hops       []Hop    `json:"hops"`
	Outcome    Outcome  `json:"outcome"`
	Drop       *Drop    `json:"drop,omitempty"`     // the loss that ended it, if Outcome is Dropped
	Because    string   `json:"because,omitempty"`  // why nothing came of it, though nobody dropped it
	Advice     string   `json:"advice,omitempty"`   //
	Question   string   `json:"question,omitempty"` // row of the fault table that this answers
	Since      WallTime `json:"since,omitzero"`     // when that came to be, if it was seen
	Complete   bool     `json:"complete"`           // false: records of it may be missing
	Notes      []string `json:"notes,omitempty"`    // why it is not complete, and the like
	EndedAt    string   `json:"ended_at,omitempty"` // kernel function that freed it after normal use

	Marks []MarkChange `json:"marks,omitempty"` // history of the fwmark

	Original *Original `json:"-"` // with Options.Originals, of IP packets

	end    endPlace
	seq    sortKey
	closed uint64 // stream time at which it was closed
	until  uint64 // boot clock ns up to which a lost record could have belonged to it
	ends   bool   // the end of every packet in it was told
	drops  []Drop // every loss in it, also of copies
	normal []Drop // what was freed as a drop in normal use, if anybody asks
	tuples []tuple
	inner  tuple // the tuple an ICMP error talks about
	syn    int   // 1: opens a connection, 2: answers that

	asked    sentPacket // the answer that is due; zero: none
	answered bool       // it was seen
	silentAt string     // where nothing came of it

	had     []uint32 // marks that records of it had
	matched bool     // Options.Match took one of its packets
}

// Hop is one thing that happened to the packet at one place.
type Hop struct {
	TNs     uint64  `json:"t_ns"`           // since the journey's start
	Node    string  `json:"node,omitempty"` // where it differs from the journey's
	Netns   string  `json:"netns,omitempty"`
	Pod     string  `json:"pod,omitempty"`
	Dev     string  `json:"dev,omitempty"`
	Group   string  `json:"group"`
	Hook    string  `json:"hook"`
	Verdict string  `json:"verdict,omitempty"`
	Mark    *uint32 `json:"mark,omitempty"`   // fwmark after the hop
	Packet  *Packet `json:"packet,omitempty"` // where it changed
	Trail   uint64  `json:"trail,omitempty"`  // of a copy; omitted for the packet itself
	Detail  Detail  `json:"detail,omitempty"`

	markWas *uint32 // fwmark before, where it changed on the way here
	markNew bool    // the first mark seen of the packet is not 0
	markHow string  // what text says of the change: restored, lost
}

// Detail is what only hops of one kind have.
type Detail interface{ detail() }

// LBDetail explains a balancer's decision (lb/decide).
type LBDetail struct {
	Balancer      string  `json:"balancer,omitempty"` // waymark, nfqlb
	Flow          string  `json:"flow,omitempty"`
	Hash          *uint32 `json:"hash,omitempty"`
	Index         *int    `json:"index,omitempty"` // hash modulo table size
	Target        *int    `json:"target,omitempty"`
	Why           string  `json:"why,omitempty"`           // why there is no target
	Contradiction string  `json:"contradiction,omitempty"` // what was seen instead
}

// RouteDetail explains a routing decision (route/fib).
type RouteDetail struct {
	Rule          *int         `json:"rule,omitempty"`   // priority
	FwMark        string       `json:"fwmark,omitempty"` // selectors of the rule
	From          netip.Prefix `json:"from,omitzero"`
	To            netip.Prefix `json:"to,omitzero"`
	IIF           string       `json:"iif,omitempty"`
	Table         int          `json:"table,omitempty"`
	Type          string       `json:"type,omitempty"` // local, blackhole, ...; "none": no route; omitted: unicast
	Nexthop       netip.Addr   `json:"nexthop,omitzero"`
	Dev           string       `json:"dev,omitempty"`
	Nexthops      []string     `json:"nexthops,omitempty"` // of a multipath route, if the one taken is not known
	Passed        []string     `json:"passed,omitempty"`   // rules that matched before, without a route for this packet
	Uncertain     bool         `json:"uncertain,omitempty"`
	Contradiction string       `json:"contradiction,omitempty"`
}

// DropDetail is where and why the kernel freed the packet (drop/kfree_skb).
type DropDetail struct {
	Reason string `json:"reason"`
	At     string `json:"at,omitempty"`
	Normal string `json:"normal,omitempty"` // why this is not a loss
}

// CopyDetail tells that a copy of the packet was made (free/clone).
type CopyDetail struct {
	Copy uint64 `json:"copy"` // trail of the copy
}

// SegmentDetail tells that the packet was cut into smaller ones (free/segment).
type SegmentDetail struct {
	Segments int `json:"segments"`
}

func (*SegmentDetail) detail() {}
func (*LBDetail) detail()      {}
func (*RouteDetail) detail()   {}
func (*DropDetail) detail()    {}
func (*CopyDetail) detail()    {}

// Drop is a packet the kernel threw away. Inside a journey Type, Time, Node,
// Packet and Journey are empty: the journey has them.
type Drop struct {
	Type     string   `json:"type,omitempty"` // "drop"
	Time     WallTime `json:"time,omitzero"`
	Node     string   `json:"node,omitempty"`
	Netns    string   `json:"netns,omitempty"`
	Pod      string   `json:"pod,omitempty"`
	Dev      string   `json:"dev,omitempty"`
	Reason   string   `json:"reason"`       // kernel's name without SKB_DROP_REASON_
	At       string   `json:"at,omitempty"` // function+offset
	Packet   *Packet  `json:"packet,omitempty"`
	Because  string   `json:"because,omitempty"`
	Normal   string   `json:"normal,omitempty"` // why this is no loss; see Options.EmitNormal
	Advice   string   `json:"advice,omitempty"`
	Question string   `json:"question,omitempty"` // row of the fault table that this answers
	Journey  string   `json:"journey,omitempty"`
	Stack    []string `json:"stack,omitempty"` // function+offset, the first is At; if it was recorded

	more uint64 // drops besides that were like this one, and were only counted
}

// Status is a periodic line about the tracer itself.
type Status struct {
	Type      string   `json:"type"` // "status"
	Time      WallTime `json:"time"`
	Records   uint64   `json:"records"`
	Lost      uint64   `json:"lost"`
	Untracked uint64   `json:"untracked"`        // packets that could not be followed
	Tracked   int      `json:"tracked"`          // journeys still open
	Evicted   uint64   `json:"evicted"`          // journeys cut off to bound memory
	Journeys  uint64   `json:"journeys"`         // journeys printed
	Normal    uint64   `json:"normal,omitempty"` // of `drops`: packets freed as drops in normal use
	CostPct   float64  `json:"cost_percent,omitempty"`

	// Of a trace with a budget that something was left out for.
	Budget     float64  `json:"budget_percent,omitempty"` // of one CPU, as cost_percent
	Shed       []string `json:"shed,omitempty"`           // hook groups that are detached
	OneIn      uint32   `json:"one_in,omitempty"`         // of so many flows one is followed
	SampledOut uint64   `json:"sampled_out,omitempty"`    // packets not followed for that, at each hook that saw them
}

// endPlace is where the packet was last, for the line that tells the outcome.
type endPlace struct {
	netns, dev string     // the pod's name stands for the namespace's where it has one
	queue      *int       // it still waits there
	local      netip.Addr // delivered because this address is the namespace's own
	t          uint64     // ns since the start
}

// sortKey orders journeys: by start, then by trail.
type sortKey struct{ start, trail uint64 }

func (k sortKey) less(l sortKey) bool {
	if k.start != l.start {
		return k.start < l.start
	}
	return k.trail < l.trail
}
