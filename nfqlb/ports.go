// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// portRange is first to last, both included, host order.
type portRange struct{ first, last uint16 }

// portSet is sorted, and no two of its ranges touch.
type portSet []portRange

// parsePorts reads "5000" and "5000-5003". Port 0 is not a port here: nfqlb
// refuses it, and a range from 1 would not show that it means any.
func parsePorts(ranges []string) (portSet, error) {
	var set portSet
	for _, s := range ranges {
		from, to, isRange := strings.Cut(s, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || first == 0 || last < first {
			return nil, fmt.Errorf("%q is no port or port range within 1-65535", s)
		}
		set = append(set, portRange{uint16(first), uint16(last)})
	}
	slices.SortFunc(set, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	merged := set[:0]
	for _, r := range set {
		if n := len(merged); n > 0 && int(r.first) <= int(merged[n-1].last)+1 {
			merged[n-1].last = max(merged[n-1].last, r.last)
			continue
		}
		merged = append(merged, r)
	}
	return merged, nil
}

// contains is a linear search: real flows have a handful of ranges.
func (s portSet) contains(port uint16) bool {
	for _, r := range s {
		if port <= r.last {
			return port >= r.first
		}
	}
	return false
}

func (s portSet) strings() []string {
	var out []string
	for _, r := range s {
		if r.first == r.last {
			out = append(out, strconv.Itoa(int(r.first)))
			continue
		}
		out = append(out, fmt.Sprintf("%d-%d", r.first, r.last))
	}
	return out
}
