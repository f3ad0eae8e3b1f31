// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"slices"
	"strings"
	"testing"
)

func keptSpecs() []FlowSpec {
	return []FlowSpec{
		{Name: "second", Target: "t", Priority: 7, Protocols: []string{"tcp", "udp"}, Dests: []string{"10.0.0.1/32", "1000::/64"}, DPorts: []string{"80", "5000-5003"}},
		{Name: "first", Target: "t", Priority: 7, Srcs: []string{"20.0.0.0/8"}, Protocols: []string{"sctp"}, SPorts: []string{"1-9"}, UDPEncap: 9899},
		{Name: "bytes", Target: "u", Protocols: []string{"tcp"}, Match: []string{"tcp[2:2] & 0xff = 1"}},
	}
}

func TestFlowFileKeepsEverything(t *testing.T) {
	want := keptSpecs()
	got, err := decodeFlowFile(encodeFlowFile(want))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got, want, sameSpec) {
		t.Fatalf("got %+v\nwant %+v", got, want)
	}
	if got, err := decodeFlowFile(encodeFlowFile(nil)); err != nil || len(got) != 0 {
		t.Errorf("no flows: %v, %v", got, err)
	}
}

func TestFlowFileRefusesDamage(t *testing.T) {
	good := string(encodeFlowFile(keptSpecs()))
	for what, bad := range map[string]string{
		"empty":         "",
		"other":         "[]\n",
		"version":       strings.Replace(good, "flows 1", "flows 2", 1),
		"cut":           good[:len(good)-20],
		"one bit":       strings.Replace(good, "5003", "5002", 1),
		"bad flow":      string(encodeFlowFile([]FlowSpec{{Name: "a", Target: "t", DPorts: []string{"0"}}})),
		"cut in header": good[:10],
	} {
		if specs, err := decodeFlowFile([]byte(bad)); err == nil {
			t.Errorf("%s: was read as %+v", what, specs)
		}
	}
}

func FuzzFlowFile(f *testing.F) {
	f.Add(encodeFlowFile(keptSpecs()))
	f.Add(encodeFlowFile(nil))
	f.Add([]byte("waymark-flows 1 crc32c 00000000\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		// The checksum keeps a fuzzer out: it gets a right one as well.
		for _, file := range [][]byte{data, sealFlowFile(data)} {
			specs, err := decodeFlowFile(file)
			if err != nil {
				continue
			}
			again, err := decodeFlowFile(encodeFlowFile(specs))
			if err != nil || !slices.EqualFunc(again, specs, sameSpec) {
				t.Fatalf("read %+v, written and read again %+v, %v", specs, again, err)
			}
		}
	})
}
