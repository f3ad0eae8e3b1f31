// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"strings"
	"testing"
)

// FuzzParse: nothing panics; what parses runs in the reference VM, and what is
// refused says where.
func FuzzParse(f *testing.F) {
	for _, e := range append(append([]string{}, expressions...), tunnelExpressions...) {
		f.Add(e)
	}
	for _, e := range []string{"udp any 10.0.0.1:53", "tcp [::1]:80 -", "host", "((", "ip[", "- - -", "port 80 or (443", "1::2::3"} {
		f.Add(e)
	}
	frame := build(f, append(ethernetIPv4("10.0.0.1", "20.0.0.1"), udpTo(53))...)
	f.Fuzz(func(t *testing.T, text string) {
		for _, args := range [][]string{{text}, strings.Fields(text)} {
			filter, err := Parse(args)
			if err != nil {
				if e, ok := err.(*Error); !ok || e.Pos < 0 || e.Pos > len(e.Text) {
					t.Fatalf("%q: %#v", text, err)
				}
				continue
			}
			reply := filter.WithReply()
			for _, n := range []int{0, 13, 14, 23, 30, 38, len(frame)} {
				if filter.Match(frame[:n], len(frame)) && !reply.Match(frame[:n], len(frame)) {
					// A reject by a short packet comes before the reply's turn,
					// never the other way round.
					t.Fatalf("%q matches, with its reply it does not", text)
				}
			}
			_ = reply.MatchNetwork(frame[linkHeader:], 0x0800, len(frame))
			if _, err := tcBody(reply.frame, suitsDirect(reply.frame)); err != nil && len(reply.frame) < maxInstructions {
				t.Fatalf("%q: %v", text, err)
			}
			if _, err := l3Body(reply.network); err != nil && len(reply.network) < maxInstructions {
				t.Fatalf("%q: %v", text, err)
			}
		}
	})
}
