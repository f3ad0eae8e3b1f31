// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"

	"waymark/decoder"
)

// message builds a RTM_NEWRULE message: header, then attributes.
func message(dstLen, srcLen, table, action byte, flags uint32, attrs ...[]byte) []byte {
	m := []byte{2, dstLen, srcLen, 0, table, 0, 0, action}
	m = binary.NativeEndian.AppendUint32(m, flags)
	for _, a := range attrs {
		m = append(m, a...)
	}
	return m
}

func attr(kind uint16, v []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(v)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, v...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func u32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func TestParseRule(t *testing.T) {
	for name, tt := range map[string]struct {
		m    []byte
		want decoder.Rule
	}{
		"fwmark 5048 lookup 5048": {
			message(0, 0, 0, 1, 0, attr(fraPriority, u32(99)), attr(fraFwmark, u32(5048)), attr(fraFwmask, u32(0xffffffff)),
				attr(fraTable, u32(5048)), attr(fraSuppress, u32(0xffffffff)), attr(fraProtocol, []byte{0})),
			decoder.Rule{Family: 4, Priority: 99, Mark: 5048, MarkMask: 0xffffffff, Table: 5048, Action: "lookup"},
		},
		"from 10.0.0.1 lookup 4096": {
			message(0, 32, 0, 1, 0, attr(fraPriority, u32(100)), attr(fraSrc, []byte{10, 0, 0, 1}), attr(fraTable, u32(4096))),
			decoder.Rule{Family: 4, Priority: 100, Src: netip.MustParsePrefix("10.0.0.1/32"), Table: 4096, Action: "lookup"},
		},
		"not from all iif eth0 blackhole": {
			message(0, 0, 0, 6, fibRuleInvert, attr(fraIIFName, []byte("eth0\x00"))),
			decoder.Rule{Family: 4, IIF: "eth0", Invert: true, Action: "blackhole"},
		},
		"suppress_prefixlength 0 is not evaluated": {
			message(0, 0, 254, 1, 0, attr(fraSuppress, u32(0))),
			decoder.Rule{Family: 4, Table: 254, Action: "lookup", Unknown: true},
		},
		"dport is not evaluated": {
			message(0, 0, 254, 1, 0, attr(24, []byte{1, 0, 2, 0})),
			decoder.Rule{Family: 4, Table: 254, Action: "lookup", Unknown: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseRule(tt.m, 4)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
}

func FuzzParseRule(f *testing.F) {
	f.Add(message(0, 32, 0, 1, 0, attr(fraSrc, []byte{10, 0, 0, 1}), attr(fraFwmark, u32(7))))
	f.Add(message(0, 128, 0, 1, 0, attr(fraSrc, make([]byte, 16))))
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, m []byte) {
		_, _ = parseRule(m, 4)
	})
}

func TestParseQueue(t *testing.T) {
	got, ok := parseQueue("    0  16157     3 2  1500     7    11     4711  1")
	want := decoder.Queue{Number: 0, PortID: 16157, Waiting: 3, Dropped: 7, UserDropped: 11}
	if !ok || got != want {
		t.Errorf("got %+v %v, want %+v", got, ok, want)
	}
	for _, bad := range []string{"", "1 2 3", "a b c d e f g h i"} {
		if _, ok := parseQueue(bad); ok {
			t.Errorf("%q was taken for a queue", bad)
		}
	}
}
