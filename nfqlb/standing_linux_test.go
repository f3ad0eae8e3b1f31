// SPDX-License-Identifier: Apache-2.0

package nfqlb

import "testing"

// A queue is kept short while it stays full, and no longer.
func TestStandingQueue(t *testing.T) {
	var s standing
	for i := range standingBatches - 1 {
		if s.after(batchSize) || s.length(1024) != 1024 {
			t.Fatalf("shortened after %d batches", i+1)
		}
	}
	if s.after(1) || s.length(1024) != 1024 {
		t.Fatal("changed although it ran empty")
	}
	for range standingBatches - 1 {
		s.after(batchSize)
	}
	if !s.after(batchSize) || s.length(1024) != standingLength || s.length(50) != 50 {
		t.Fatalf("not shortened: %+v", s)
	}
	for range 3 * standingBatches {
		if s.after(batchSize) {
			t.Fatal("changed again while full")
		}
	}
	if !s.after(batchSize-1) || s.length(1024) != 1024 || s.after(1) {
		t.Fatal("not back to its length, once, when it ran empty")
	}
}
