// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"cmp"
	"slices"
)

// portIndex finds the flows that have a port. Pages that are alike are there
// once: with few ports in use all of it stays in the nearest cache.
type portIndex struct {
	page  [256]uint16 // by the port's high byte
	pages [][256]flowRow
}

// portEdge is where a flow's range starts, or the port behind its end.
type portEdge struct {
	port  int
	start bool
	flow  int
}

// makePortIndex indexes set(flow), where no range means every port.
func makePortIndex(rows *bitRows, flows []*flow, set func(*flow) portSet) *portIndex {
	x := new(portIndex)
	var edges []portEdge
	for i, f := range flows {
		for _, r := range set(f) {
			edges = append(edges, portEdge{int(r.first), true, i}, portEdge{int(r.last) + 1, false, i})
		}
	}
	base := allFlows
	if edges != nil {
		base = rows.clone(noFlows)
		for i, f := range flows {
			if len(set(f)) == 0 {
				rows.set(base, i)
			}
		}
	}
	slices.SortFunc(edges, func(a, b portEdge) int { return cmp.Compare(a.port, b.port) })
	row, open := base, 0
	for i := range x.page {
		var page [256]flowRow
		for j := range page {
			if len(edges) > 0 && edges[0].port == i<<8+j {
				edges, open = takeEdges(rows, edges, &row, base, open)
			}
			page[j] = row
		}
		x.add(i, &page)
	}
	return x
}

// takeEdges makes row the flows from the next edge's port on, and counts the
// open ranges. Where none is open, all ports share the row base.
func takeEdges(rows *bitRows, edges []portEdge, row *flowRow, base flowRow, open int) ([]portEdge, int) {
	n := 0
	for ; n < len(edges) && edges[n].port == edges[0].port; n++ {
		if open--; edges[n].start {
			open += 2
		}
	}
	if open == 0 {
		*row = base
		return edges[n:], open
	}
	*row = rows.clone(*row)
	for _, e := range edges[:n] {
		if e.start {
			rows.set(*row, e.flow)
		} else {
			rows.clear(*row, e.flow)
		}
	}
	*row = rows.done(*row)
	return edges[n:], open
}

// add sets page i.
func (x *portIndex) add(i int, page *[256]flowRow) {
	n := len(x.pages)
	switch {
	case n > 0 && x.pages[0] == *page:
		x.page[i] = 0
	case n > 0 && x.pages[n-1] == *page:
		x.page[i] = uint16(n - 1)
	default:
		x.pages = append(x.pages, *page)
		x.page[i] = uint16(n)
	}
}

// flows are those that have the port.
func (x *portIndex) flows(port uint16) flowRow { return x.pages[x.page[port>>8]][port&0xff] }
