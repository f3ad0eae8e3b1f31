// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"cmp"
	"maps"
	"slices"
	"sync"
)

// maxDropSeries bounds the series of DropCounters; drops of more are others.
const maxDropSeries = 1000

// DropSeries names one counter of drops.
type DropSeries struct {
	Netns, Device, Reason string
	Function              string // without offset
}

// DropSample is one counter of drops and its value.
type DropSample struct {
	DropSeries
	Count uint64
}

// DropSamples are the counters at one moment.
type DropSamples struct {
	Series []DropSample  // by name
	Others uint64        // drops beyond the series that are kept
	Normal []NormalCount // by why
	Status Status        // as last told
}

// DropCounters count drops for a scraper. They are safe for concurrent use.
type DropCounters struct {
	mu     sync.Mutex
	series map[DropSeries]uint64
	others uint64
	normal map[string]uint64
	status Status
}

// NewDropCounters returns counters at 0.
func NewDropCounters() *DropCounters {
	return &DropCounters{series: map[DropSeries]uint64{}, normal: map[string]uint64{}}
}

// Add counts a drop, or with Normal set a packet that was freed in normal use.
func (c *DropCounters) Add(d *Drop) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.Normal != "" {
		c.normal[d.Normal] += 1 + d.more
		return
	}
	s := DropSeries{d.Netns, d.Dev, d.Reason, function(d.At)}
	if _, known := c.series[s]; !known && len(c.series) >= maxDropSeries {
		c.others += 1 + d.more
		return
	}
	c.series[s] += 1 + d.more
}

// SetStatus notes what the tracer has read and lost.
func (c *DropCounters) SetStatus(s *Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = *s
}

// Read returns what was counted so far.
func (c *DropCounters) Read() DropSamples {
	c.mu.Lock()
	out := DropSamples{Others: c.others, Status: c.status}
	for s, n := range c.series {
		out.Series = append(out.Series, DropSample{s, n})
	}
	normal := maps.Clone(c.normal)
	c.mu.Unlock()
	for _, why := range slices.Sorted(maps.Keys(normal)) {
		out.Normal = append(out.Normal, NormalCount{why, normal[why]})
	}
	slices.SortFunc(out.Series, func(a, b DropSample) int {
		return cmp.Or(cmp.Compare(a.Netns, b.Netns), cmp.Compare(a.Device, b.Device), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Function, b.Function))
	})
	return out
}
