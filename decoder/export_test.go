// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"waymark/decoder/pcapng"
)

// exported lists the files that an export of items made.
func exported(t *testing.T, items []any, format ExportFormat) (dir string, names []string, r ExportResult) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "new", "dir")
	r, err := ExportDir(openFile(t, onDisk(t, recorded(t, items))), ExportOptions{Format: format}, dir)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return dir, names, r
}

func TestExportPcapng(t *testing.T) {
	dir, names, result := exported(t, journeyItems(), ExportPcapng)
	if want := []string{"lb-if8.pcapng", "lb-nsm-1.dropped.pcapng", "lb-nsm-1.pcapng"}; !slices.Equal(names, want) {
		t.Fatalf("files %v, want %v", names, want)
	}
	if want := (ExportResult{Files: 3, Packets: 5, Skipped: 2}); result != want {
		t.Errorf("%+v, want %+v", result, want)
	}
	got := tool(t, "tshark", "-r", filepath.Join(dir, "lb-nsm-1.pcapng"), "-T", "fields", "-E", "separator=|",
		"-e", "frame.time_epoch", "-e", "frame.interface_name", "-e", "frame.len", "-e", "frame.packet_id", "-e", "frame.comment")
	want := `1763652249.121123456|lb/nsm-1|74|42|ingress lb/nsm-1
1763652249.121124456|lb/nsm-1|78|42|ingress lb/nsm-1
1763652249.121130456|lb/nsm-1|74|42|egress lb/nsm-1
`
	if got != want {
		t.Errorf("tshark shows\n%s\nwant\n%s", got, want)
	}
	file, err := os.ReadFile(filepath.Join(dir, "lb-nsm-1.dropped.pcapng"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(file, []byte("waymark\x01")) {
		t.Error("the export still has the record in it")
	}
	if _, err := Export(bytes.NewReader(file), ExportOptions{Format: ExportPcap}, nil); !errors.Is(err, ErrNoRecords) {
		t.Error("exported an export:", err)
	}
	if _, err := Replay(bytes.NewReader(file), &tape{}); !errors.Is(err, ErrNoRecords) {
		t.Error("replayed an export:", err)
	}
}

func TestExportPcap(t *testing.T) {
	dir, names, _ := exported(t, journeyItems(), ExportPcap)
	if want := []string{"lb-if8.pcap", "lb-nsm-1.dropped.l3.pcap", "lb-nsm-1.pcap"}; !slices.Equal(names, want) {
		t.Fatalf("files %v, want %v", names, want)
	}
	for name, want := range map[string]struct {
		link  layers.LinkType
		bytes []int
	}{
		"lb-nsm-1.pcap":            {layers.LinkTypeEthernet, []int{74, 78, 74}},
		"lb-nsm-1.dropped.l3.pcap": {layers.LinkTypeRaw, []int{60}},
	} {
		r, err := pcapgo.NewReader(openFile(t, filepath.Join(dir, name)))
		if err != nil {
			t.Fatal(err)
		}
		if r.LinkType() != want.link {
			t.Errorf("%s: link type %v", name, r.LinkType())
		}
		var sizes []int
		for {
			data, ci, err := r.ReadPacketData()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(sizes) == 0 && name == "lb-nsm-1.pcap" && ci.Timestamp.UnixNano() != testWall+testBoot {
				t.Errorf("time %v", ci.Timestamp)
			}
			sizes = append(sizes, len(data))
		}
		if !slices.Equal(sizes, want.bytes) {
			t.Errorf("%s: %v, want %v", name, sizes, want.bytes)
		}
		tool(t, "tshark", "-r", filepath.Join(dir, name))
	}
}

// Two nodes may have namespaces and devices of the same name.
func TestExportTwoNodes(t *testing.T) {
	items := journeyItems()
	second := *items[0].(*Context).Session
	second.Node = "n2"
	items = append(items, &Context{Session: &second})
	items = append(items, journeyItems()[1:5]...)
	_, names, _ := exported(t, items, ExportPcapng)
	if !slices.Contains(names, "n2-lb-nsm-1.pcapng") || !slices.Contains(names, "lb-nsm-1.pcapng") {
		t.Errorf("files %v", names)
	}
}

func TestFileName(t *testing.T) {
	tests := map[string]ExportFile{
		"lb-eth0.pcapng":         {Format: ExportPcapng, Name: "lb/eth0"},
		"red-pod-x-eth0.pcap":    {Format: ExportPcap, Name: "red/pod-x/eth0"},
		"etc-passwd.pcap":        {Format: ExportPcap, Name: "../../etc/passwd"},
		"net--123--if7.l3.pcap":  {Format: ExportPcap, Name: "net:[123]/if7", L3: true},
		"unknown.dropped.pcapng": {Format: ExportPcapng, Name: "-/-", Dropped: true},
	}
	for want, f := range tests {
		if got := f.FileName(); got != want {
			t.Errorf("%q becomes %q, want %q", f.Name, got, want)
		}
	}
}

func TestExportRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lb-nsm-1.pcapng")
	file := recorded(t, journeyItems())
	if err := os.WriteFile(path, file, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := ExportDir(openFile(t, path), ExportOptions{Format: ExportPcapng}, dir); err == nil || !strings.Contains(err.Error(), "another --dir") {
		t.Error("replaced the recording itself:", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(after, file) {
		t.Error("the recording was changed")
	}
	if _, err := Export(bytes.NewReader(file), ExportOptions{Format: "xml"}, nil); err == nil {
		t.Error("no error for an unknown format")
	}
	full := errors.New("no space left on device")
	if _, err := Export(bytes.NewReader(file), ExportOptions{Format: ExportPcap}, func(ExportFile) (io.WriteCloser, error) { return nil, full }); !errors.Is(err, full) {
		t.Error(err)
	}
	if _, err := Export(strings.NewReader("text, and no capture"), ExportOptions{Format: ExportPcap}, nil); !errors.Is(err, pcapng.ErrNotPcapng) {
		t.Error(err)
	}
}

func TestExportTruncated(t *testing.T) {
	file := recorded(t, journeyItems())
	var names []string
	r, err := Export(bytes.NewReader(file[:len(file)/2]), ExportOptions{Format: ExportPcapng}, func(f ExportFile) (io.WriteCloser, error) {
		names = append(names, f.Name)
		return nopCloser{io.Discard}, nil
	})
	if err != nil || !r.Truncated || !reflect.DeepEqual(names, []string{"lb/nsm-1", "lb/if8"}) {
		t.Errorf("%+v, %v, %v", r, names, err)
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
