// SPDX-License-Identifier: Apache-2.0

package nfqlb

import "sync/atomic"

// Target is a set of targets that flows point to: a name (of a shared table)
// and its current Maglev table. The table is replaced as a whole, so a lookup
// sees the old one or the new one.
type Target struct {
	Name  string
	table atomic.Pointer[Table]

	// hits counts packets by target index. It belongs to the target and not
	// to the table, so that a target change keeps it.
	hits atomic.Pointer[[]counter]
}

// NewTarget is a target with a table.
func NewTarget(name string, t *Table) *Target {
	target := &Target{Name: name}
	target.SetTable(t)
	return target
}

// Table is the current table; nil for a nil target.
func (t *Target) Table() *Table {
	if t == nil {
		return nil
	}
	return t.table.Load()
}

// SetTable replaces the table. Lookups that are under way finish with the old
// one.
func (t *Target) SetTable(table *Table) {
	if old := t.hits.Load(); old == nil || len(*old) != table.N() {
		hits := make([]counter, table.N())
		t.hits.Store(&hits)
	}
	t.table.Store(table)
}

func (t *Target) hit(index int) { t.hitBy(index, 1) }

func (t *Target) hitBy(index int, packets uint64) {
	if hits := *t.hits.Load(); index >= 0 && index < len(hits) {
		hits[index].Add(packets)
	}
}

// counter fills a cache line: the queues' threads count different things
// beside each other.
type counter struct {
	atomic.Uint64
	_ [56]byte
}
