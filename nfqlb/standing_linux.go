// SPDX-License-Identifier: Apache-2.0

package nfqlb

// A queue that packets come to faster than they can leave is always full,
// whatever its length. A long one then loses no fewer packets than a short one;
// each only waits longer, and is out of the processor's caches when its turn
// comes, which made it cost 11 % more. So a queue that stays full is kept
// short until it runs empty. Bursts have all of its length.

const (
	standingBatches = 1024 // full ones in a row: 16,384 packets, 30 ms at full rate
	standingLength  = 192  // packets; with fewer nothing more is gained
)

// standing watches a queue for being full all the time.
type standing struct {
	full  int // batches in a row
	short bool
}

// after notes a batch of n packets, and tells whether the queue's length has to
// change.
func (s *standing) after(n int) (change bool) {
	if n < batchSize {
		change, s.full, s.short = s.short, 0, false
		return change
	}
	if s.full++; s.full != standingBatches {
		return false
	}
	s.short = true
	return true
}

// length is how long a queue shall be that was set to configured packets.
func (s *standing) length(configured uint32) uint32 {
	if s.short {
		return min(configured, standingLength)
	}
	return configured
}
