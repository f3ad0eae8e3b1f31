package decoder

import "net/netip"

// Context is everything an explanation needs that is not a packet: names,
// addresses, rule sets, balancer state, losses. It travels in the same stream
// as the kernel's records, written before the first record that needs it and
// again when it changes, so a recording carries its own explanation.
//
// Exactly one of the pointer fields is set. It is stored as JSON: fields may
// be added, never renamed.
type Context struct {
	Time      uint64     `json:"time"` // boot clock ns at which it held
	Session   *Session   `json:"session,omitempty"`
	Namespace *Namespace `json:"namespace,omitempty"`
	Device    *Device    `json:"device,omitempty"`
	Routing   *Routing   `json:"routing,omitempty"`
	Symbol    *Symbol    `json:"symbol,omitempty"`
	Reason    *Reason    `json:"reason,omitempty"`
	Balancer  *Balancer  `json:"balancer,omitempty"`
	Loss      *Loss      `json:"loss,omitempty"`
	Clock     *Clock     `json:"clock,omitempty"`
	Queues    *Queues    `json:"queues,omitempty"`
	Process   *Process   `json:"process,omitempty"`
	Budget    *Budget    `json:"budget,omitempty"`
	End       *End       `json:"end,omitempty"`

	NetfilterRule *NetfilterRule `json:"netfilter_rule,omitempty"`

	// What changes without a word from the kernel is read when a packet is lost
	// that it may explain.
	Sysctls *Sysctls `json:"sysctls,omitempty"`
	Chains  *Chains  `json:"chains,omitempty"`
	IPVS    *IPVS    `json:"ipvs,omitempty"`

	IPVSEntries *IPVSEntries `json:"ipvs_entries,omitempty"`
}

// Session is the first thing in every stream: who recorded, when, and the
// options that shape the output, so that replay prints what live printed.
type Session struct {
	Version     string   `json:"version"`                // waymark's
	Format      int      `json:"format"`                 // version of the record layout, 1
	Node        string   `json:"node"`                   // node name
	Kernel      string   `json:"kernel"`                 // uname -r
	WallOffset  int64    `json:"wall_offset_ns"`         // wall clock minus boot clock, ns
	Filter      []string `json:"filter,omitempty"`       // as typed
	FollowReply bool     `json:"follow_reply,omitempty"` //
	Limit       int      `json:"limit,omitempty"`        // stop after that many journeys
	Mark        uint32   `json:"mark,omitempty"`         // show only journeys that had (mark & MarkMask) == Mark somewhere
	MarkMask    uint32   `json:"mark_mask,omitempty"`    // 0: no mark filter
	Hooks       []string `json:"hooks,omitempty"`        // hooks attached, by name
	ExactFrees  bool     `json:"exact_frees,omitempty"`  // the end of every skb is seen (HOOK_KFREE_SKBMEM)
	SnapLen     int      `json:"snaplen,omitempty"`      // bytes of packet kept per record

	// Anonymized: addresses are other ones than they were, see Anonymizer.
	Anonymized bool `json:"anonymized,omitempty"`
	// Recording and Part are set in files that are parts of one recording: which
	// recording, and which part, from 1 on. The Repeats contexts behind this one
	// were told in the parts before. See Parts.
	Recording string `json:"recording,omitempty"`
	Part      int    `json:"part,omitempty"`
	Repeats   int    `json:"repeats,omitempty"`
}

// Namespace names a network namespace.
type Namespace struct {
	Inode uint32 `json:"inode"`         // of /proc/PID/ns/net
	Name  string `json:"name"`          // what a person calls it
	Pod   string `json:"pod,omitempty"` // NAMESPACE/NAME, where known
}

// Device names a network device of a namespace and what is configured on it.
type Device struct {
	Netns uint32 `json:"netns"`
	Index uint32 `json:"index"`
	Name  string `json:"name"`
	Kind  string `json:"kind,omitempty"` // veth, bridge, ...
	MAC   string `json:"mac,omitempty"`
	MTU   int    `json:"mtu,omitempty"`
	Up    bool   `json:"up,omitempty"`
	// NoCarrier: it is up, but the other end of the link is not.
	NoCarrier bool           `json:"no_carrier,omitempty"`
	Master    uint32         `json:"master,omitempty"` // ifindex of the bridge it is a port of
	Addrs     []netip.Prefix `json:"addrs,omitempty"`  // addresses with their prefix length
	Port      *BridgePort    `json:"port,omitempty"`   // what it may do as a port of that bridge
	Removed   bool           `json:"removed,omitempty"`
}

// BridgePort is the mode of a port of a bridge (bridge(8), "bridge -d link").
type BridgePort struct {
	Hairpin  bool `json:"hairpin,omitempty"`  // frames may leave by the port they came from
	Learning bool `json:"learning,omitempty"` // the bridge learns the addresses behind it
	Flood    bool `json:"flood,omitempty"`    // frames for unknown addresses go there
}

// Routing is one namespace's policy routing: every rule and the routes of
// every table that a rule names.
type Routing struct {
	Netns  uint32            `json:"netns"`
	Rules  []Rule            `json:"rules"`  // by family, then priority
	Routes []Route           `json:"routes"` //
	Sysctl map[string]string `json:"sysctl,omitempty"`
	Read   uint64            `json:"read,omitempty"` // boot clock ns at which it was: the stream's time lags behind
}

// Rule is one `ip rule`.
type Rule struct {
	Family   int          `json:"family"` // 4 or 6
	Priority int          `json:"priority"`
	Src      netip.Prefix `json:"src,omitzero"`
	Dst      netip.Prefix `json:"dst,omitzero"`
	IIF      string       `json:"iif,omitempty"`
	OIF      string       `json:"oif,omitempty"`
	Mark     uint32       `json:"mark,omitempty"`
	MarkMask uint32       `json:"mark_mask,omitempty"` // 0: the rule does not look at the mark
	Invert   bool         `json:"invert,omitempty"`
	Table    int          `json:"table,omitempty"`
	Action   string       `json:"action"`            // lookup, blackhole, unreachable, prohibit, other
	Unknown  bool         `json:"unknown,omitempty"` // has selectors waymark does not evaluate
}

// Route is one route.
type Route struct {
	Family   int          `json:"family"`
	Table    int          `json:"table"`
	Dst      netip.Prefix `json:"dst"`  // 0.0.0.0/0 or ::/0 for default
	Type     string       `json:"type"` // unicast, local, blackhole, unreachable, prohibit, ...
	Metric   uint32       `json:"metric,omitempty"`
	Protocol int          `json:"protocol,omitempty"` // RTPROT_*
	Nexthops []Nexthop    `json:"nexthops,omitempty"`
}

// Nexthop is where a route sends a packet.
type Nexthop struct {
	Via   netip.Addr `json:"via,omitzero"`
	Dev   string     `json:"dev,omitempty"`
	Index uint32     `json:"index,omitempty"`
}

// NetfilterRule is one rule of nftables, which is told when it first decided
// about a packet. The two handles name it for ever: a table or rule that takes
// its place gets others.
type NetfilterRule struct {
	Netns       uint32 `json:"netns"`
	TableHandle uint64 `json:"table_handle"`
	Handle      uint64 `json:"handle"`
	Table       string `json:"table"`
	Chain       string `json:"chain"`
	Text        string `json:"text,omitempty"` // as nft(8) writes it; "…" is what waymark cannot say
}

// Symbol names a kernel address: "nf_queue+0x21c".
type Symbol struct {
	Addr uint64 `json:"addr"`
	Name string `json:"name"`
}

// Reason names a drop reason number of the recorded kernel, without the
// SKB_DROP_REASON_ prefix.
type Reason struct {
	Number uint32 `json:"number"`
	Name   string `json:"name"`
}

// Queues is a namespace's /proc/net/netfilter/nfnetlink_queue: which NFQUEUE
// numbers have a listener.
type Queues struct {
	Netns  uint32  `json:"netns"`
	Queues []Queue `json:"queues"`
}

// Queue is one bound NFQUEUE.
type Queue struct {
	Number      int    `json:"number"`
	PortID      uint32 `json:"portid"`
	Waiting     uint32 `json:"waiting,omitempty"`
	Dropped     uint32 `json:"dropped,omitempty"`
	UserDropped uint32 `json:"user_dropped,omitempty"`
}

// Sysctls are values under /proc/sys of a namespace, by name as in
// "net.netfilter.nf_conntrack_count".
type Sysctls struct {
	Netns  uint32            `json:"netns"`
	Values map[string]string `json:"values"`
}

// Chains is where the nftables of a namespace can drop packets: base chains
// whose policy is drop, and chains with rules that drop.
type Chains struct {
	Netns  uint32  `json:"netns"`
	Chains []Chain `json:"chains"`
	More   bool    `json:"more,omitempty"` // there are more than are told
}

// Chain is one of them.
type Chain struct {
	Family string          `json:"family"` // inet, ip, ip6
	Table  string          `json:"table"`
	Name   string          `json:"chain"`
	Hook   string          `json:"hook,omitempty"` // input, forward, ...; empty: no base chain, others jump there
	Policy string          `json:"policy,omitempty"`
	Drops  []NetfilterRule `json:"drops,omitempty"` // its rules that drop
}

// IPVS is the table of an IPVS director (/proc/net/ip_vs).
type IPVS struct {
	Netns    uint32        `json:"netns"`
	Services []IPVSService `json:"services,omitempty"`
	More     bool          `json:"more,omitempty"` // there are more than are told
	// Timeouts are how long it keeps connections; nil: that was not read.
	Timeouts *IPVSTimeouts `json:"timeouts,omitempty"`
}

// IPVSTimeouts are how long a director keeps a connection that it sees no packet
// of, in seconds (ipvsadm --set).
type IPVSTimeouts struct {
	TCP    int `json:"tcp"`
	TCPFIN int `json:"tcpfin"` // after a FIN
	UDP    int `json:"udp"`
}

// IPVSEntries are those of a director's connections (/proc/net/ip_vs_conn) that go to
// a destination that gets no new ones: one that is no destination of the service
// any more, or has weight 0.
type IPVSEntries struct {
	Netns   uint32      `json:"netns"`
	Entries []IPVSEntry `json:"entries"`
	More    bool        `json:"more,omitempty"` // there may be more than are told
}

// IPVSEntry is one connection.
type IPVSEntry struct {
	Proto       string         `json:"proto"` // tcp, udp, sctp
	Client      netip.AddrPort `json:"client"`
	Service     netip.AddrPort `json:"service"`
	Destination netip.AddrPort `json:"destination"`
	State       string         `json:"state"` // established, fin_wait, ...
	Gone        bool           `json:"gone,omitempty"`
}

// IPVSService is a virtual service and where it sends packets. One of a firewall
// mark has no address.
type IPVSService struct {
	Proto        string            `json:"proto"` // tcp, udp, sctp, fwm
	Addr         netip.AddrPort    `json:"addr,omitzero"`
	Mark         uint32            `json:"mark,omitempty"`
	Scheduler    string            `json:"scheduler"`
	Destinations []IPVSDestination `json:"destinations,omitempty"`
}

// IPVSDestination is a realserver of a service.
type IPVSDestination struct {
	Addr   netip.AddrPort `json:"addr"`
	Method string         `json:"method"` // masq, local, tunnel, direct, bypass
	Weight int            `json:"weight"`
}

// Process is one that has a socket open.
type Process struct {
	Socket uint64 `json:"socket"` // inode, as in /proc/PID/fd
	PID    int    `json:"pid"`    // the lowest, if several have it
	Name   string `json:"name"`   // /proc/PID/comm
	Others int    `json:"others,omitempty"`
}

// Balancer is the published state of an NFQUEUE Maglev balancer (ours or
// nfqlb) in a namespace: its flow list and the tables the flows point to.
type Balancer struct {
	Netns           uint32          `json:"netns"`
	Name            string          `json:"name"`      // waymark, nfqlb
	HashMode        int             `json:"hash_mode"` // nfqlb --hash_mode
	PromiscuousPing bool            `json:"promiscuous_ping,omitempty"`
	Tier            string          `json:"tier,omitempty"` // table of the balancers it shares fragments with (nfqlb --lbshm)
	Flows           []BalancerFlow  `json:"flows"`
	Tables          []BalancerTable `json:"tables"`
}

// BalancerFlow is one flow of the balancer, as `nfqlb flow-list` gives it.
type BalancerFlow struct {
	Name      string   `json:"name"`
	Priority  int      `json:"priority,omitempty"`
	Protocols []string `json:"protocols,omitempty"`
	Dests     []string `json:"dests,omitempty"`
	Srcs      []string `json:"srcs,omitempty"`
	DPorts    []string `json:"dports,omitempty"`
	SPorts    []string `json:"sports,omitempty"`
	Match     []string `json:"match,omitempty"`
	UDPEncap  int      `json:"udpencap,omitempty"`
	Target    string   `json:"user_ref,omitempty"` // name of the table
}

// BalancerTable is one Maglev lookup table (/dev/shm/NAME of nfqlb). The
// lookup table itself is not stored: it follows from M, N and Active.
type BalancerTable struct {
	Name   string `json:"name"`
	OwnFW  int    `json:"own_fwmark"`
	M      int    `json:"m"`
	N      int    `json:"n"`
	Active []int  `json:"active"` // fwmark by index, -1: inactive
}

// Loss says that records are missing: Count records of Hook were not written
// between From and To (boot clock ns).
type Loss struct {
	From  uint64 `json:"from"`
	To    uint64 `json:"to"`
	Hook  uint16 `json:"hook"`
	Count uint64 `json:"count"`
	Kind  string `json:"kind,omitempty"` // "ring" (buffer full), "untracked" (identity map full) or "missed" (the hook was busy)
}

// Budget says what is left out from At on, to keep to a budget of CPU time. It is
// told when that changes, and at the end if anything ever was left out.
type Budget struct {
	At         uint64   `json:"at"`                    // boot clock ns
	Limit      float64  `json:"limit_percent"`         // of one CPU
	Cost       float64  `json:"cost_percent"`          // of one CPU, programs and process, as last measured
	Shed       []string `json:"shed,omitempty"`        // hook groups that are detached
	OneIn      uint32   `json:"one_in,omitempty"`      // of so many flows one is followed; 0: all are
	SampledOut uint64   `json:"sampled_out,omitempty"` // so far: packets not followed for that, at each hook that saw them
}

// Clock moves the stream's time forward when no packet does.
type Clock struct {
	Told uint64 `json:"told,omitempty"` // boot clock ns: losses until then were told
}

// End is the last thing in a stream that was closed properly.
type End struct {
	Records uint64 `json:"records"`
	Lost    uint64 `json:"lost"`
	Why     string `json:"why,omitempty"` // interrupted, limit, duration
}

// Sink takes the stream of records and contexts in the order they were read
// from the kernel. The stitcher and the recorder are sinks.
//
// Record gets one raw kernel record (header, hook part, snapshot) and must
// not keep the slice. Context may keep c but must not change it.
type Sink interface {
	Record(raw []byte) error
	Context(c *Context) error
}
