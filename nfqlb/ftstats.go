// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"fmt"
)

// FragStats are the counters of a balancer's fragment table, as it publishes
// them in shared memory and `stats` prints them, with nfqlb's names.
type FragStats struct {
	Size             uint32 `json:"hsize"`      // slots of the hash table
	TTLMillis        uint64 `json:"ttlMillis"`  // an entry lives that long after its last use
	Collisions       uint32 `json:"collisions"` // entries in a bucket of their own, now
	Inserts          uint32 `json:"inserts"`
	RejectedInserts  uint32 `json:"rejected"` // no bucket was left
	Lookups          uint32 `json:"lookups"`
	ObjGC            uint32 `json:"objGC"` // entries that timed out
	MTU              uint32 `json:"mtu"`   // longest fragment that is stored, bytes
	BucketsMax       uint32 `json:"bucketsMax"`
	BucketsAllocated uint32 `json:"bucketsAllocated"` // so far
	BucketsUsed      uint32 `json:"bucketsUsed"`      // now
	FragsMax         uint32 `json:"fragsMax"`         // fragments that can be stored
	FragsAllocated   uint32 `json:"fragsAllocated"`   // stored so far
	FragsDiscarded   uint32 `json:"fragsDiscarded"`   // stored and then dropped
	ReAssembled      uint32 `json:"reAssembled"`      // packets of which all fragments were seen

	Active uint32 `json:"-"` // entries in use; nfqlb does not print it
}

// FragStatsSize is the size of the shared file: nfqlb's struct fragStats, in
// its machine's byte order.
const FragStatsSize = 72

// FragStatsName is the file's name below ShmDir unless --ft_shm says another.
const FragStatsName = "ftshm"

const nanosPerMilli = 1_000_000

// ParseFragStats reads the content of the shared file.
func ParseFragStats(b []byte) (*FragStats, error) {
	if len(b) < FragStatsSize {
		return nil, fmt.Errorf("no fragment statistics: %d bytes instead of %d", len(b), FragStatsSize)
	}
	s := &FragStats{TTLMillis: binary.NativeEndian.Uint64(b) / nanosPerMilli}
	for _, f := range s.fields() {
		*f.value = binary.NativeEndian.Uint32(b[f.offset:])
	}
	return s, nil
}

// Encode is the content of the shared file for s.
func (s *FragStats) Encode() []byte {
	b := make([]byte, FragStatsSize)
	binary.NativeEndian.PutUint64(b, s.TTLMillis*nanosPerMilli)
	for _, f := range s.fields() {
		binary.NativeEndian.PutUint32(b[f.offset:], *f.value)
	}
	return b
}

type fragField struct {
	offset int
	value  *uint32
}

// fields are the places of the numbers behind the 8 bytes of the time to live
// in nanoseconds; 4 bytes in the middle are padding.
func (s *FragStats) fields() []fragField {
	return []fragField{
		{8, &s.Size},
		{12, &s.Active},
		{16, &s.Collisions},
		{20, &s.Inserts},
		{24, &s.RejectedInserts},
		{28, &s.Lookups},
		{32, &s.ObjGC},
		{40, &s.MTU},
		{44, &s.BucketsMax},
		{48, &s.BucketsAllocated},
		{52, &s.BucketsUsed},
		{56, &s.FragsMax},
		{60, &s.FragsDiscarded},
		{64, &s.FragsAllocated},
		{68, &s.ReAssembled},
	}
}
