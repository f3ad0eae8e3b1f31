// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"waymark/bpf"
	"waymark/decoder/pcapng"
)

var updateRecordings = flag.Bool("update-recordings", false, "write testdata/recording anew")

// tape is a Sink that keeps everything: raw records as []byte, contexts.
type tape struct {
	items []any
	stop  error // returned by the next call
}

func (s *tape) Record(raw []byte) error {
	s.items = append(s.items, append([]byte{}, raw...))
	return s.stop
}

func (s *tape) Context(c *Context) error {
	s.items = append(s.items, c)
	return s.stop
}

// feed gives items to a sink.
func feed(t testing.TB, s Sink, items []any) {
	t.Helper()
	for _, item := range items {
		var err error
		switch item := item.(type) {
		case []byte:
			err = s.Record(item)
		case *Context:
			err = s.Context(item)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// recorded is the file that items make.
func recorded(t testing.TB, items []any) []byte {
	t.Helper()
	var out bytes.Buffer
	r := NewRecorder(&out, RecorderOptions{})
	feed(t, r, items)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if s := r.Stats(); s.Bytes != int64(out.Len()) || s.Records+s.Contexts != uint64(len(items)) {
		t.Fatalf("stats %+v for %d items in %d bytes", s, len(items), out.Len())
	}
	return out.Bytes()
}

// synPacket is an Ethernet frame with a TCP SYN, 20.0.0.1:40000 to
// 10.0.0.1:5000, 60 bytes of IPv4.
func synPacket() []byte {
	f := make([]byte, 14+60)
	copy(f, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0})
	ip := f[14:]
	copy(ip, []byte{0x45, 0, 0, 60, 0x12, 0x67, 0x40, 0, 64, 6})
	copy(ip[12:], []byte{20, 0, 0, 1, 10, 0, 0, 1})
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	tcp := ip[20:]
	binary.BigEndian.PutUint16(tcp, 40000)
	binary.BigEndian.PutUint16(tcp[2:], 5000)
	tcp[12], tcp[13] = 10<<4, 2
	tcp[20], tcp[21], tcp[22], tcp[23] = 2, 4, 5, 180 // MSS
	copy(tcp[24:], bytes.Repeat([]byte{1}, 16))       // NOPs
	return f
}

const (
	testBoot = 1_000_000_000                               // boot clock ns of the first record
	testWall = 1_763_652_249_121_123_456 - int64(testBoot) // wall minus boot clock, ns
	testAddr = 0xffffffff81abcdef                          // of a kernel symbol
	testPod  = "red/meridio-load-balancer-7d9c5f8b6c-abcde"
	testNS   = uint32(4026532281)
	testTag  = 0x2064 // VLAN 100, priority 1
	testMark = 5048
	testSay  = "dropped at ip_rcv_finish_core+0x1a4: IP_RPFILTER, lb/nsm-1, mark 0x13b8 (5048)"
)

// journeyItems is a small stream with one of everything.
func journeyItems() []any {
	frame := synPacket()
	rec := func(n uint64, hook bpf.Hook, change func(r *bpf.Record), snap []byte) []byte {
		r := bpf.Record{
			TimeNs: testBoot + n*1000, Trail: 42, Skb: 0xffff888100000000, Netns: testNS, Ifindex: 7,
			Len: 74, Hook: uint16(hook), Sport: 0x409c, Dport: 0x8813, L3Proto: 0x0800, Proto: 6, IpVersion: 4,
			PayloadLen: 0, TcpFlags: 2, Ttl: 64,
		}
		r.Src = netip.MustParseAddr("20.0.0.1").As16()
		r.Dst = netip.MustParseAddr("10.0.0.1").As16()
		if change != nil {
			change(&r)
		}
		return r.Encode(nil, snap)
	}
	withExt := rec(6, bpf.HookSkbClone, func(r *bpf.Record) { r.Parent = 42; r.Trail = 43 }, frame[:60])
	withExt = append(withExt[:bpf.RecordSize:bpf.RecordSize], append([]byte("hookpart"), withExt[bpf.RecordSize:]...)...)
	binary.LittleEndian.PutUint16(withExt[extLenAt:], 8)
	return []any{
		&Context{Time: testBoot, Session: &Session{
			Version: "0.1.0", Format: RecordFormat, Node: "n1", Kernel: "6.18.0", WallOffset: testWall, SnapLen: 96,
			Filter: []string{"tcp", "any", "10.0.0.1:5000"},
		}},
		&Context{Time: testBoot, Namespace: &Namespace{Inode: testNS, Name: "lb", Pod: testPod}},
		&Context{Time: testBoot, Device: &Device{
			Netns: testNS, Index: 7, Name: "nsm-1", Kind: "veth", MTU: 1500,
			Addrs: []netip.Prefix{netip.MustParsePrefix("172.16.0.1/24")},
		}},
		rec(0, bpf.HookTCIngress, func(r *bpf.Record) { r.Flags = bpf.FlagStart }, frame),
		rec(1, bpf.HookTCIngress, func(r *bpf.Record) { r.Flags = bpf.FlagVLAN; r.VlanTci = testTag }, frame),
		rec(2, bpf.HookTCEgress, func(r *bpf.Record) { r.Mark = testMark; r.Ifindex = 8 }, frame[:40]),
		&Context{Time: testBoot + 3000, Symbol: &Symbol{Addr: testAddr, Name: "ip_rcv_finish_core+0x1a4"}},
		&Context{Time: testBoot + 3000, Reason: &Reason{Number: 17, Name: "IP_RPFILTER"}},
		rec(3, bpf.HookKfreeSkb, func(r *bpf.Record) {
			r.Flags, r.Len, r.Mark, r.Location, r.Reason = bpf.FlagL3|bpf.FlagEnd, 40, testMark, testAddr, 17
		}, frame[14:]),
		rec(4, bpf.HookKfreeSkbmem, func(r *bpf.Record) { r.Flags = bpf.FlagEnd }, nil),
		rec(5, bpf.HookConsumeSkb, func(r *bpf.Record) { r.Netns, r.Ifindex, r.Trail = 0, 0, 0 }, frame),
		withExt,
		append(rec(7, bpf.HookTCEgress, nil, frame), "after the end"...),
		[]byte("shorter than a header"),
		&Context{Time: testBoot + 9000, Loss: &Loss{From: testBoot, To: testBoot + 9000, Hook: 1, Count: 3, Kind: "ring"}},
		&Context{Time: testBoot + 9000, End: &End{Records: 9, Lost: 3, Why: "interrupted"}},
	}
}

func TestReplayIsExact(t *testing.T) {
	want := journeyItems()
	file := recorded(t, want)
	var got tape
	result, err := Replay(bytes.NewReader(file), &got)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.items, want) {
		for i := range min(len(want), len(got.items)) {
			if !reflect.DeepEqual(got.items[i], want[i]) {
				t.Errorf("item %d:\n got %v\nwant %v", i, got.items[i], want[i])
			}
		}
		t.Errorf("%d items, want %d", len(got.items), len(want))
	}
	if want := (ReplayResult{Records: 9, Contexts: 7, Ended: true, Offset: int64(len(file))}); result != want {
		t.Errorf("result %+v, want %+v", result, want)
	}
}

// A recording of today must be readable for ever.
func TestStoredRecording(t *testing.T) {
	path := filepath.Join("testdata", "recording", "format1.pcapng")
	if *updateRecordings {
		if err := os.WriteFile(path, recorded(t, journeyItems()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var got tape
	if _, err := Replay(file, &got); err != nil || !reflect.DeepEqual(got.items, journeyItems()) {
		t.Errorf("%d items, %v", len(got.items), err)
	}
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// randomItems is any stream: any header bytes, lengths, flags and order.
func randomItems(rnd *rand.Rand, n int) []any {
	items := []any{&Context{Session: &Session{Format: 1, Node: "n", WallOffset: rnd.Int64(), SnapLen: rnd.IntN(200)}}}
	for range n {
		switch rnd.IntN(8) {
		case 0:
			items = append(items, &Context{Time: rnd.Uint64(), Namespace: &Namespace{Inode: rnd.Uint32N(4), Name: string(rune('a' + rnd.IntN(26)))}})
			continue
		case 1:
			items = append(items, &Context{Time: rnd.Uint64(), Device: &Device{Netns: rnd.Uint32N(4), Index: rnd.Uint32N(4), Name: strings.Repeat("d/", rnd.IntN(9))}})
			continue
		case 2:
			items = append(items, &Context{Session: &Session{Node: string(rune('a' + rnd.IntN(3))), SnapLen: rnd.IntN(99)}})
			continue
		}
		ext, snap, tail := rnd.IntN(3)*rnd.IntN(40), rnd.IntN(300), rnd.IntN(3)*rnd.IntN(9)
		if rnd.IntN(50) == 0 {
			snap = 60000 + rnd.IntN(5536)
		}
		if rnd.IntN(50) == 0 {
			ext = 60000 + rnd.IntN(5536)
		}
		raw := make([]byte, bpf.RecordSize+ext+snap+tail)
		for i := range raw {
			raw[i] = byte(rnd.Uint32())
		}
		le := binary.LittleEndian
		le.PutUint16(raw[extLenAt:], uint16(ext))
		le.PutUint16(raw[snapLenAt:], uint16(snap))
		le.PutUint16(raw[hookAt:], uint16(rnd.IntN(9)))
		if rnd.IntN(2) == 0 { // few places, so that names and numbers repeat
			le.PutUint32(raw[40:], rnd.Uint32N(4))
			le.PutUint32(raw[44:], rnd.Uint32N(4))
		}
		if rnd.IntN(20) == 0 {
			raw = raw[:rnd.IntN(len(raw))]
		}
		items = append(items, raw)
	}
	return items
}

func TestRandomStreams(t *testing.T) {
	for seed := range uint64(200) {
		want := randomItems(newRand(seed), 200)
		file := recorded(t, want)
		var got tape
		if _, err := Replay(bytes.NewReader(file), &got); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !reflect.DeepEqual(got.items, want) {
			t.Fatalf("seed %d: replay differs", seed)
		}
		checkPackets(t, file)
	}
}

// checkPackets looks at a recording as other programs do.
func checkPackets(t *testing.T, file []byte) {
	t.Helper()
	r := pcapng.NewReader(bytes.NewReader(file))
	for {
		b, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if p := b.Packet; p != nil {
			i := r.Interfaces()[p.Interface]
			if uint64(len(p.Data)) > uint64(p.OrigLen) || i.SnapLen != 0 && len(p.Data) > int(i.SnapLen) {
				t.Fatalf("%d bytes of %d, snaplen %d", len(p.Data), p.OrigLen, i.SnapLen)
			}
			if i.TSResol != pcapng.NanoResolution || !strings.Contains(i.Name, "/") {
				t.Fatalf("interface %+v", i)
			}
		}
	}
}

func TestPacketsAreDescribed(t *testing.T) {
	r := pcapng.NewReader(bytes.NewReader(recorded(t, journeyItems())))
	type seen struct {
		iface, description string
		link               pcapng.LinkType
		flags              uint32
		id                 uint64
		captured, length   int
		comment            string
	}
	at := "node n1, pod " + testPod + ", netns 4026532281"
	want := []seen{
		{"lb/nsm-1", at, pcapng.LinkEthernet, pcapng.FlagInbound, 42, 74, 74, "ingress lb/nsm-1"},
		{"lb/nsm-1", at, pcapng.LinkEthernet, pcapng.FlagInbound, 42, 78, 78, "ingress lb/nsm-1"},
		{"lb/if8", at, pcapng.LinkEthernet, pcapng.FlagOutbound, 42, 40, 74, "egress lb/if8, mark 0x13b8 (5048)"},
		{"lb/nsm-1", at + noLinkHeader, pcapng.LinkRaw, 0, 42, 60, 60, testSay},
		{"-/-", "node n1", pcapng.LinkEthernet, 0, 0, 74, 74, "freed after use, -/-"},
		{"lb/nsm-1", at, pcapng.LinkEthernet, 0, 43, 60, 74, "copied from trail 42, lb/nsm-1"},
		{"lb/nsm-1", at, pcapng.LinkEthernet, pcapng.FlagOutbound, 42, 74, 74, "egress lb/nsm-1"},
	}
	var got []seen
	var first *pcapng.Packet
	for {
		b, err := r.Next()
		if err != nil {
			break
		}
		if p := b.Packet; p != nil {
			i := r.Interfaces()[p.Interface]
			got = append(got, seen{i.Name, i.Description, i.LinkType, p.Flags, p.PacketID, len(p.Data), int(p.OrigLen), string(p.Comments[0])})
			if first == nil {
				first = p
				if when := i.Time(p.Time); when.UnixNano() != testWall+testBoot {
					t.Errorf("first packet at %v", when)
				}
			}
			if len(got) == 2 && !bytes.Equal(p.Data[12:18], []byte{0x81, 0, 0x20, 0x64, 8, 0}) {
				t.Errorf("VLAN tag not put back: % x", p.Data[:20])
			}
			if p.HasID != (p.PacketID != 0) || p.HasQueue || len(p.Verdicts) > 0 {
				t.Errorf("options %+v", p)
			}
		}
	}
	if !reflect.DeepEqual(got, want) {
		for i := range got {
			t.Logf("%+v", got[i])
		}
		t.Errorf("want %+v", want)
	}
}

func TestTruncatedRecording(t *testing.T) {
	want := journeyItems()
	file := recorded(t, want)
	last := 0
	for cut := 1; cut < len(file); cut++ {
		var got tape
		result, err := Replay(bytes.NewReader(file[:cut]), &got)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if result.Truncated != (result.Offset != int64(cut)) || len(got.items) < last {
			t.Fatalf("cut at %d: %+v, %d items after %d", cut, result, len(got.items), last)
		}
		last = len(got.items)
		if last > 0 && !reflect.DeepEqual(got.items, want[:last]) {
			t.Fatalf("cut at %d: the %d items are not the first ones", cut, last)
		}
	}
	if last != len(want) { // all that is cut last is the statistics
		t.Errorf("%d of %d items", last, len(want))
	}
}

// Damage is judged, never believed and never a panic.
func TestDamagedRecording(t *testing.T) {
	file := recorded(t, journeyItems())
	rnd := newRand(1)
	for range 5000 {
		damaged := bytes.Clone(file)
		for range 1 + rnd.IntN(4) {
			damaged[rnd.IntN(len(damaged))] ^= byte(1 << rnd.IntN(8))
		}
		var got tape
		_, err := Replay(bytes.NewReader(damaged), &got)
		var fault *pcapng.Error
		if err != nil && !errors.As(err, &fault) && !errors.Is(err, ErrNoRecords) && !errors.Is(err, ErrNewerRecording) {
			t.Fatal(err)
		}
		_, _ = Export(bytes.NewReader(damaged), ExportOptions{Format: ExportPcapng}, func(ExportFile) (io.WriteCloser, error) {
			return nopCloser{io.Discard}, nil
		})
	}
}

func TestLongContext(t *testing.T) {
	long := make([]string, 300_000)
	for i := range long {
		long[i] = "a filter word of some length"
	}
	want := []any{&Context{Session: &Session{Filter: long}}, &Context{Clock: &Clock{}}}
	var got tape
	if _, err := Replay(bytes.NewReader(recorded(t, want)), &got); err != nil || !reflect.DeepEqual(got.items, want) {
		t.Errorf("%d items, %v", len(got.items), err)
	}
}

func TestReplayRefuses(t *testing.T) {
	foreign := func(app string) []byte {
		var out bytes.Buffer
		w := pcapng.NewWriter(&out, 0)
		_ = w.Section(&pcapng.Section{Application: app})
		_, _ = w.Interface(&pcapng.Interface{})
		_ = w.Packet(&pcapng.Packet{Custom: []pcapng.CustomOption{{PEN: recordingPEN, Data: []byte("somebody else's")}}})
		_ = w.Custom(&pcapng.Custom{PEN: 9, Data: []byte(recordingMagic + "waymark in another's block")})
		_ = w.Flush()
		return out.Bytes()
	}
	newer := recorded(t, []any{&Context{Session: &Session{Format: RecordFormat + 1, Version: "9.9"}}})
	layout := bytes.ReplaceAll(recorded(t, journeyItems()), []byte(recordingMagic), []byte(recordingName+"\x02"))
	damaged := recorded(t, journeyItems())
	i := bytes.Index(damaged, []byte(`"session"`))
	damaged[i] = '!'
	cut := bytes.Clone(damaged[:i])
	tests := map[string]struct {
		file []byte
		kind error
		says string
	}{
		"dumpcap":      {foreign("Dumpcap (Wireshark) 4.0"), ErrNoRecords, "written by Dumpcap (Wireshark) 4.0; open it in Wireshark instead"},
		"nobody":       {foreign(""), ErrNoRecords, "written by another program"},
		"cut foreign":  {foreign("tcpdump")[:60], ErrNoRecords, "written by tcpdump"},
		"empty":        {nil, pcapng.ErrNotPcapng, "empty"},
		"text":         {[]byte("hello, this is text"), pcapng.ErrNotPcapng, "looks like text"},
		"classic pcap": {[]byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00"), pcapng.ErrNotPcapng, "classic pcap"},
		"newer":        {newer, ErrNewerRecording, "use waymark 9.9 or newer"},
		"newer layout": {layout, ErrNewerRecording, "layout 2, this waymark reads up to 1; use a newer waymark"},
		"damaged":      {damaged, pcapng.ErrCorrupt, "context: invalid character"},
		"cut content":  {append(cut, "..."...), nil, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got tape
			_, err := Replay(bytes.NewReader(test.file), &got)
			if test.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.says) || test.kind != nil && !errors.Is(err, test.kind) {
				t.Errorf("error %v, want %q", err, test.says)
			}
		})
	}
}

func TestReplayStopsWithSink(t *testing.T) {
	stop := errors.New("enough")
	got := tape{stop: stop}
	if _, err := Replay(bytes.NewReader(recorded(t, journeyItems())), &got); err != stop || len(got.items) != 1 {
		t.Errorf("%d items, %v", len(got.items), err)
	}
}

// FuzzReplay: whatever the bytes are, replay ends with a judgement, and what
// it delivers can be recorded and replayed again.
func FuzzReplay(f *testing.F) {
	f.Add(recorded(f, journeyItems()))
	f.Add(recorded(f, nil))
	f.Add(bigEndian(f, recorded(f, journeyItems())))
	f.Add(append(foreignFile(f, "dumpcap.pcapng"), recorded(f, journeyItems())...))
	f.Add(foreignFile(f, "mergecap-with-recording.pcapng"))
	f.Add(likePwru(f))
	f.Add(inParts(f, manyItems(), 4000)[1])
	f.Fuzz(func(t *testing.T, file []byte) {
		var first, second tape
		_, _ = Replay(bytes.NewReader(file), &first)
		again := recorded(t, first.items)
		if _, err := Replay(bytes.NewReader(again), &second); err != nil {
			t.Fatal(err)
		}
		if len(first.items) > 0 && !reflect.DeepEqual(first.items, second.items) {
			t.Fatal("second replay differs")
		}
		var copied bytes.Buffer
		if _, err := Annotate(bytes.NewReader(file), Merge([]*Recording{{In: bytes.NewReader(file)}}), &copied); err != nil {
			return
		}
		var third tape
		_, _ = Replay(&copied, &third)
		if !reflect.DeepEqual(first.items, third.items) {
			t.Fatal("the annotated copy differs")
		}
	})
}
