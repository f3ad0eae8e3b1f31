// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"encoding/binary"
	"strings"
	"testing"
)

// TestMatchNetwork: a packet without its link header is judged as with it,
// where the filter asks nothing about the link.
func TestMatchNetwork(t *testing.T) {
	ps, compared := packets(t), 0
	for _, expr := range expressions {
		if strings.Contains(expr, "ether") || strings.Contains(expr, "link") || strings.Contains(expr, "cast") {
			continue
		}
		f, err := Parse([]string{expr})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ps {
			typ := binary.BigEndian.Uint16(p.data[linkHeader-2:])
			if typ <= maxLength8023 {
				continue
			}
			compared++
			want := f.Match(p.data, p.wire)
			if got := f.MatchNetwork(p.data[linkHeader:], typ, p.wire-linkHeader); got != want {
				t.Fatalf("%q: got %v, with a link header %v: %x", expr, got, want, p.data)
			}
		}
	}
	if compared == 0 {
		t.Error("nothing was compared")
	}
	f, err := Parse([]string{"ether src 02:00:00:00:00:01"})
	if err != nil {
		t.Fatal(err)
	}
	if p := ps[0]; f.MatchNetwork(p.data[linkHeader:], 0x0800, p.wire) {
		t.Error("an address that is not there matched")
	}
}
