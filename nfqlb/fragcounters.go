// SPDX-License-Identifier: Apache-2.0

package nfqlb

// FragCounters counts fragments where FragStats is read from: nfqlb's struct
// fragStats, FragStatsSize bytes in the machine's byte order.
type FragCounters struct {
	ttlNanos         uint64
	size             uint32
	active           uint32
	collisions       uint32
	inserts          uint32
	rejectedInserts  uint32
	lookups          uint32
	objGC            uint32
	_                uint32
	mtu              uint32
	bucketsMax       uint32
	bucketsAllocated uint32
	bucketsUsed      uint32
	fragsMax         uint32
	fragsDiscarded   uint32
	fragsAllocated   uint32
	reAssembled      uint32
}

// stats is a copy to look at.
func (c *FragCounters) stats() *FragStats {
	return &FragStats{
		TTLMillis: c.ttlNanos / nanosPerMilli, Size: c.size, Active: c.active, Collisions: c.collisions,
		Inserts: c.inserts, RejectedInserts: c.rejectedInserts, Lookups: c.lookups, ObjGC: c.objGC,
		MTU: c.mtu, BucketsMax: c.bucketsMax, BucketsAllocated: c.bucketsAllocated, BucketsUsed: c.bucketsUsed,
		FragsMax: c.fragsMax, FragsDiscarded: c.fragsDiscarded, FragsAllocated: c.fragsAllocated, ReAssembled: c.reAssembled,
	}
}
