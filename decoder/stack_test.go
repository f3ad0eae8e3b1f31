// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	. "waymark/decoder"
)

// TestDropStack: the stack begins where the packet was freed, ends at zeros, and
// an address without a name stays one.
func TestDropStack(t *testing.T) {
	addrs := func(all ...uint64) (ext []byte) {
		for _, a := range all {
			ext = binary.LittleEndian.AppendUint64(ext, a)
		}
		return ext
	}
	for name, c := range map[string]struct {
		ext  []byte
		want []string
	}{
		"none":              {nil, nil},
		"from the free on":  {addrs(0xffff0001, 0xffff0002, inTCP, inForward, 0xabc, 0, 0), []string{"tcp_v4_rcv+0x1", "ip_forward+0x1", "0xabc"}},
		"without the free":  {addrs(inForward, inHook), []string{"ip_forward+0x1", "nf_hook_slow+0x1"}},
		"cut off":           {addrs(inTCP, inForward)[:12], []string{"tcp_v4_rcv+0x1"}},
		"longer than known": {addrs(slices.Repeat([]uint64{inTCP}, 100)...), slices.Repeat([]string{"tcp_v4_rcv+0x1"}, 64)},
	} {
		s := &stream{t: t}
		s.contexts(nodeContexts()...)
		p := s.tcp(1, 0, "198.51.100.2", 40000, podAddr, 8080, syn)
		p.ext = c.ext
		p.drop(nsPod, inPod, 0, noListener, inTCP)
		var drops []*Drop
		s.run(Options{EmitDrop: func(d *Drop) { drops = append(drops, d) }})
		if len(drops) != 1 || !slices.Equal(drops[0].Stack, c.want) {
			t.Errorf("%s: %d drops, stack %v; want %v", name, len(drops), drops[0].Stack, c.want)
			continue
		}
		var text bytes.Buffer
		if err := NewTextWriter(&text, TextOptions{}).Drop(drops[0]); err != nil || bytes.Contains(text.Bytes(), []byte("stack:")) != (c.want != nil) {
			t.Errorf("%s: %v, printed as\n%s", name, err, text.String())
		}
	}
}
