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

	"github.com/vishvananda/netlink/nl"

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

// ipvsConnections is what a director's kernel prints, with a template of persistence.
const ipvsConnections = `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP C6336402 9C42 0A36D594 1F4C 0A839965 1F4C ESTABLISHED     899
TCP C6336402 9C41 0A36D594 1F4C 0A839967 1F4C FIN_WAIT        119
TCP C6336402 9C40 0A36D594 1F4C 0A839966 1F4D FIN_WAIT        118
TCP C6336402 0000 0A36D594 1F4C 0A839967 1F4C NONE             49
UDP 2001:0db8:0051:0000:0000:0000:0000:0002 9C41 2001:0db8:0054:0000:0000:0000:0000:0148 1F4C fd00:0131:0153:0000:0000:0000:0000:0109 1F90 UDP             299
`

// TestParseIPVSEntries: those are told whose destination is gone, or has weight 0.
func TestParseIPVSEntries(t *testing.T) {
	end := netip.MustParseAddrPort
	vip := end("10.54.213.148:8012")
	want := &decoder.IPVSEntries{Entries: []decoder.IPVSEntry{
		{Proto: "tcp", Client: end("198.51.100.2:40000"), Service: vip, Destination: end("10.131.153.102:8013"), State: "fin_wait"},
		{Proto: "tcp", Client: end("198.51.100.2:40001"), Service: vip, Destination: end("10.131.153.103:8012"), State: "fin_wait", Gone: true},
		{Proto: "udp", Client: end("[2001:db8:51::2]:40001"), Service: end("[2001:db8:54::148]:8012"), Destination: end("[fd00:131:153::109]:8080"), State: "udp", Gone: true},
	}}
	table := parseIPVS(strings.NewReader(ipvsTable))
	if got := parseIPVSEntries(strings.NewReader(ipvsConnections), table); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	// It may be of a firewall mark's service, of which an entry does not tell.
	last := &table.Services[len(table.Services)-1]
	last.Destinations = []decoder.IPVSDestination{{Addr: end("10.131.153.103:0"), Weight: 1}, {Addr: end("[fd00:131:153::109]:0"), Weight: 1}}
	want.Entries = want.Entries[:1]
	if got := parseIPVSEntries(strings.NewReader(ipvsConnections), table); !reflect.DeepEqual(got, want) {
		t.Errorf("with a service of a mark: got\n%+v\nwant\n%+v", got, want)
	}
}

// TestParseIPVSEntriesBound: of any number of connections few are told, and no more
// than some are read.
func TestParseIPVSEntriesBound(t *testing.T) {
	for lost, want := range map[string]int{"0A839967": maxIPVSEntries, "0A839965": 0} {
		var all bytes.Buffer
		for i := range maxIPVSConnections + 1 {
			fmt.Fprintf(&all, "TCP C6336402 %04X 0A36D594 1F4C %s 1F4C ESTABLISHED 899\n", i+1, lost)
		}
		if got := parseIPVSEntries(&all, parseIPVS(strings.NewReader(ipvsTable))); !got.More || len(got.Entries) != want {
			t.Errorf("to %s: %d entries, more: %v", lost, len(got.Entries), got.More)
		}
	}
}

func TestParseIPVSTimeouts(t *testing.T) {
	message := func(seconds ...uint32) []byte {
		b := []byte{12, 1, 0, 0}
		for i, s := range seconds {
			b = append(b, nl.NewRtAttr(ipvsTimeoutTCP+i, nl.Uint32Attr(s)).Serialize()...)
		}
		return b
	}
	want := decoder.IPVSTimeouts{TCP: 900, TCPFIN: 120, UDP: 300}
	if got := parseIPVSTimeouts(message(900, 120, 300)); got == nil || *got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, b := range [][]byte{nil, {1, 2}, message(), append(message(900), 1, 2, 3), message(900)[:10]} {
		if got := parseIPVSTimeouts(b); got != nil && got.TCP != 900 {
			t.Errorf("%v is read as %+v", b, got)
		}
	}
}

func FuzzParseIPVSTimeouts(f *testing.F) {
	f.Add(append([]byte{12, 1, 0, 0}, nl.NewRtAttr(ipvsTimeoutTCP, nl.Uint32Attr(900)).Serialize()...))
	f.Add([]byte{12, 1, 0, 0, 0, 0, 4, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := parseIPVSTimeouts(b); got != nil && got.TCP <= 0 {
			t.Errorf("%+v", got)
		}
	})
}

func FuzzParseIPVSEntries(f *testing.F) {
	f.Add([]byte(ipvsConnections))
	f.Add([]byte("TCP C6336402 9C42 0A36D594 1F4C 0A839965 zz ESTABLISHED\nTCP : : : : : : :"))
	table := parseIPVS(strings.NewReader(ipvsTable))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range parseIPVSEntries(bytes.NewReader(b), table).Entries {
			if !e.Client.IsValid() || !e.Service.IsValid() || !e.Destination.IsValid() || e.Client.Port() == 0 {
				t.Errorf("%+v", e)
			}
		}
	})
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
