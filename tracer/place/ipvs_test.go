// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"waymark/decoder"
)

// ipvsTable is what a director's kernel prints.
const ipvsTable = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A36D594:1F4C wrr  
  -> 0A839965:1F4C      Route   1      0          12        
  -> 0A839966:1F4D      Tunnel  0      0          0         
UDP  [2001:0db8:0054:0000:0000:0000:0000:0148]:1F4C wrr  
  -> [fd00:0131:0153:0000:0000:0000:0000:0101]:1F90      Masq    2      0          0         
FWM  0000002A rr  
`

func TestParseIPVS(t *testing.T) {
	end := netip.MustParseAddrPort
	want := &decoder.IPVS{Services: []decoder.IPVSService{
		{Proto: "tcp", Addr: end("10.54.213.148:8012"), Scheduler: "wrr", Destinations: []decoder.IPVSDestination{
			{Addr: end("10.131.153.101:8012"), Method: "direct", Weight: 1},
			{Addr: end("10.131.153.102:8013"), Method: "tunnel"},
		}},
		{Proto: "udp", Addr: end("[2001:db8:54::148]:8012"), Scheduler: "wrr", Destinations: []decoder.IPVSDestination{
			{Addr: end("[fd00:131:153::101]:8080"), Method: "masq", Weight: 2},
		}},
		{Proto: "fwm", Mark: 42, Scheduler: "rr"},
	}}
	if got := parseIPVS(strings.NewReader(ipvsTable)); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// TestParseIPVSBound: a table of any size is read into bounded memory.
func TestParseIPVSBound(t *testing.T) {
	var services, destinations bytes.Buffer
	for i := range maxIPVSServices + 1 {
		fmt.Fprintf(&services, "TCP 0A36%04X:0001 rr\n", i)
	}
	destinations.WriteString("TCP 0A360000:0001 rr\n")
	for i := range maxIPVSDestinations + 1 {
		fmt.Fprintf(&destinations, "-> 0A36%04X:0001 Route 1 0 0\n", i&0xffff)
	}
	if got := parseIPVS(&services); !got.More || len(got.Services) != maxIPVSServices {
		t.Errorf("%d services, more: %v", len(got.Services), got.More)
	}
	if got := parseIPVS(&destinations); !got.More || len(got.Services[0].Destinations) != maxIPVSDestinations {
		t.Errorf("%d destinations, more: %v", len(got.Services[0].Destinations), got.More)
	}
}

func FuzzParseIPVS(f *testing.F) {
	f.Add([]byte(ipvsTable))
	f.Add([]byte("-> 0A839965:1F4C Route 1\nTCP [::]:0 rr\nFWM x y\nTCP : rr"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, s := range parseIPVS(bytes.NewReader(b)).Services {
			if s.Proto != "fwm" && !s.Addr.IsValid() {
				t.Errorf("a service without an address: %+v", s)
			}
		}
	})
}
