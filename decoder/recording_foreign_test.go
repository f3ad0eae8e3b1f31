// SPDX-License-Identifier: Apache-2.0

// Recordings that other programs have written, rewritten, joined or made of
// nothing.

package decoder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"waymark/decoder/pcapng"
)

func foreignFile(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "foreign", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// likePwru is a capture as pwru writes it: packets of a tunnel's interfaces with
// comments that say which function saw them.
func likePwru(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	w := pcapng.NewWriter(&out, 0)
	_ = w.Section(&pcapng.Section{Application: "pwru", Comment: "custom"})
	_, _ = w.Interface(&pcapng.Interface{LinkType: pcapng.LinkRaw, Name: "eth0", TSResol: 9})
	for _, f := range []string{"ip_rcv", "kfree_skb_reason(SKB_DROP_REASON_NO_SOCKET)"} {
		_ = w.Packet(&pcapng.Packet{
			Data: synPacket()[14:], OrigLen: 60, Comments: [][]byte{[]byte(f), []byte("0xffff888100000000")},
			Custom: []pcapng.CustomOption{{PEN: 63768, Data: []byte("pwru's own")}, {PEN: recordingPEN, Data: []byte("waymar")}},
		})
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestForeignCaptures(t *testing.T) {
	for name, test := range map[string]struct {
		file    []byte
		kind    error
		says    string
		foreign uint64
	}{
		"dumpcap":             {foreignFile(t, "dumpcap.pcapng"), ErrNoRecords, "written by Dumpcap (Wireshark) 4.0", 3},
		"dumpcap, big-endian": {bigEndian(t, foreignFile(t, "dumpcap.pcapng")), ErrNoRecords, "written by Dumpcap (Wireshark) 4.0", 3},
		"tcpdump":             {foreignFile(t, "tcpdump.pcap"), pcapng.ErrNotPcapng, "classic pcap", 0},
		"pwru":                {likePwru(t), ErrNoRecords, "written by pwru; open it in Wireshark", 2},
		"two sections":        {append(likePwru(t), foreignFile(t, "dumpcap.pcapng")...), ErrNoRecords, "written by Dumpcap", 5},
	} {
		var got tape
		result, err := Replay(bytes.NewReader(test.file), &got)
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") || len(got.items) != 0 || result.Foreign != test.foreign {
			t.Errorf("%s: %d items, %+v, %v; want %q", name, len(got.items), result, err, test.says)
		}
	}
}

// A recording beside other captures in one file: what is waymark's is replayed.
func TestRecordingAmongCaptures(t *testing.T) {
	items := journeyItems()
	ours, other := recorded(t, items), foreignFile(t, "dumpcap.pcapng")
	for name, test := range map[string]struct {
		file    []byte
		want    []any
		foreign uint64
	}{
		"big-endian":              {bigEndian(t, ours), items, 0},
		"behind a capture":        {append(bytes.Clone(other), ours...), items, 3},
		"before a capture":        {append(bytes.Clone(ours), other...), items, 3},
		"behind one of big bytes": {append(bigEndian(t, other), ours...), items, 3},
		"twice":                   {append(bytes.Clone(ours), ours...), append(journeyItems(), items...), 0},
		"twice, both byte orders": {append(bytes.Clone(ours), bigEndian(t, ours)...), append(journeyItems(), items...), 0},
	} {
		var got tape
		result, err := Replay(bytes.NewReader(test.file), &got)
		if err != nil || result.Foreign != test.foreign || !reflect.DeepEqual(got.items, test.want) {
			t.Errorf("%s: %d items of %d, %+v, %v", name, len(got.items), len(test.want), result, err)
		}
	}
}

// mergecap keeps packets with what rides on them, but no section's options, and so
// not the session.
func TestMergedWithCapture(t *testing.T) {
	var got tape
	result, err := Replay(bytes.NewReader(foreignFile(t, "mergecap-with-recording.pcapng")), &got)
	if err != nil || result.Foreign != 3 || result.Records == 0 {
		t.Errorf("%+v, %v", result, err)
	}
	for _, item := range got.items {
		if c, ok := item.(*Context); ok && c.Session != nil {
			t.Error("there is a session: say so in docs/output.md")
		}
	}
}

// bigEndian is a file of this package's with the other byte order, as a machine of
// that kind would write it.
func bigEndian(t testing.TB, file []byte) []byte {
	t.Helper()
	le, be := binary.LittleEndian, binary.BigEndian
	out := bytes.Clone(file)
	u16 := func(at int) { be.PutUint16(out[at:], le.Uint16(file[at:])) }
	u32 := func(at int) { be.PutUint32(out[at:], le.Uint32(file[at:])) }
	u64 := func(at int) { be.PutUint64(out[at:], le.Uint64(file[at:])) }
	words := func(from, to int) {
		for ; from < to; from += 4 {
			u32(from)
		}
	}
	for at := 0; at < len(file); {
		typ, n := le.Uint32(file[at:]), int(le.Uint32(file[at+4:]))
		words(at, at+8)
		u32(at + n - 4)
		body, end := at+8, at+n-4
		options := end
		switch pcapng.BlockType(typ) {
		case pcapng.BlockSection:
			u32(body)
			u16(body + 4)
			u16(body + 6)
			u64(body + 8)
			options = body + 16
		case pcapng.BlockInterface:
			u16(body)
			u32(body + 4)
			options = body + 8
		case pcapng.BlockPacket:
			words(body, body+20)
			options = body + 20 + (int(le.Uint32(file[body+12:]))+3)&^3
		case pcapng.BlockStatistics:
			words(body, body+12)
			options = body + 12
		case pcapng.BlockCustom, pcapng.BlockCustomKeep:
			u32(body)
		default:
			t.Fatalf("block %#x", typ)
		}
		for options < end {
			code, length := le.Uint16(file[options:]), int(le.Uint16(file[options+2:]))
			u16(options)
			u16(options + 2)
			value := options + 4
			switch {
			case code >= 2988:
				u32(value) // enterprise number
			case code == 1 || code == 0:
			case pcapng.BlockType(typ) == pcapng.BlockPacket && length == 4, pcapng.BlockType(typ) == pcapng.BlockStatistics && code <= 3:
				words(value, value+length)
			case length == 8 && pcapng.BlockType(typ) != pcapng.BlockSection && code != 2:
				u64(value)
			}
			options = value + (length+3)&^3
		}
		at += n
	}
	return out
}
