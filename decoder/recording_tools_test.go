// SPDX-License-Identifier: Apache-2.0

// Recordings in the programs people open them with.

package decoder

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// tool runs a program of Wireshark's and fails the test if it has anything to
// complain about.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("WAYMARK_CI") == "1" {
			t.Fatalf("%s is not installed: apt install tshark", name)
		}
		t.Skipf("SKIPPED, %s is not installed (apt install tshark)", name)
	}
	cmd := exec.Command(path, args...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err = cmd.Run()
	said := strings.Replace(complaints.String(), `Running as user "root" and group "root". This could be dangerous.`, "", 1)
	if said = strings.TrimSpace(said); err != nil || said != "" {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, said)
	}
	return out.String()
}

// onDisk writes a file into a directory of the test's.
func onDisk(t *testing.T, file []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "recording.pcapng")
	if err := os.WriteFile(path, file, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTshark(t *testing.T) {
	path := onDisk(t, recorded(t, journeyItems()))
	got := tool(t, "tshark", "-r", path, "-T", "fields", "-E", "separator=|",
		"-e", "frame.time_epoch", "-e", "frame.interface_name", "-e", "frame.packet_id",
		"-e", "frame.packet_flags_direction", "-e", "frame.len", "-e", "vlan.id", "-e", "frame.comment", "-e", "tcp.dstport")
	want := `1763652249.121123456|lb/nsm-1|42|0x00000001|74||ingress lb/nsm-1|5000
1763652249.121124456|lb/nsm-1|42|0x00000001|78|100|ingress lb/nsm-1|5000
1763652249.121125456|lb/if8|42|0x00000002|74||egress lb/if8, mark 0x13b8 (5048)|5000
1763652249.121126456|lb/nsm-1|42||60||dropped at ip_rcv_finish_core+0x1a4: IP_RPFILTER, lb/nsm-1, mark 0x13b8 (5048)|5000
1763652249.121128456|-/-|||74||freed after use, -/-|5000
1763652249.121129456|lb/nsm-1|43||74||copied from trail 42, lb/nsm-1|5000
1763652249.121130456|lb/nsm-1|42|0x00000002|74||egress lb/nsm-1|5000
`
	if got != want {
		t.Errorf("tshark shows\n%s\nwant\n%s", got, want)
	}
	info := tool(t, "capinfos", path)
	for _, want := range []string{
		"Strict time order:   True", "Capture application: waymark 0.1.0", "Number of packets:   7",
		"Name = lb/nsm-1", "Description = node n1, pod " + testPod, "Time precision = nanoseconds",
		"File timestamp precision:  nanoseconds",
	} {
		if !strings.Contains(info, want) {
			t.Errorf("capinfos does not say %q:\n%s", want, info)
		}
	}
}

// A recording survives the programs that cut and merge captures, except what
// came after the last packet: they drop statistics.
func TestRewrittenRecording(t *testing.T) {
	items := journeyItems()
	path := onDisk(t, recorded(t, items))
	kept := items[:13]
	for _, name := range []string{"editcap", "mergecap"} {
		t.Run(name, func(t *testing.T) {
			copied := filepath.Join(t.TempDir(), "copy.pcapng")
			args := []string{path, copied}
			if name == "mergecap" {
				args = []string{"-w", copied, path}
			}
			tool(t, name, args...)
			var got tape
			if _, err := Replay(openFile(t, copied), &got); err != nil || !reflect.DeepEqual(got.items, kept) {
				t.Errorf("%d items, %d of them should be as before, %v", len(got.items), len(kept), err)
			}
		})
	}
	t.Run("shortened", func(t *testing.T) {
		copied := filepath.Join(t.TempDir(), "copy.pcapng")
		tool(t, "editcap", "-s", "50", path, copied)
		var got tape
		result, err := Replay(openFile(t, copied), &got)
		if err != nil || result.Shortened != 6 || len(got.items) != len(kept) {
			t.Errorf("%+v, %v", result, err)
		}
	})
}

func openFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Random recordings with everything odd in them are still fine pcapng.
func TestToolsOnRandomStreams(t *testing.T) {
	for seed := range uint64(4) {
		path := onDisk(t, recorded(t, randomItems(newRand(seed), 300)))
		tool(t, "capinfos", path)
		tool(t, "tshark", "-r", path, "-T", "fields", "-e", "frame.comment")
	}
}

// A rule set of a big node is longer than one option and one block may be.
func TestToolsOnLongContexts(t *testing.T) {
	items := journeyItems()
	for _, routes := range []int{100, 5_000, 60_000} {
		long := &Routing{Netns: testNS}
		for i := range routes {
			long.Routes = append(long.Routes, Route{
				Family: 4, Table: i, Type: "unicast", Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24),
				Nexthops: []Nexthop{{Via: netip.MustParseAddr("172.16.1.6"), Dev: "load-balan-274a"}},
			})
		}
		items = append(items, &Context{Time: testBoot + 9000, Routing: long}, items[3])
	}
	file := recorded(t, items)
	path := onDisk(t, file)
	frames := strings.Count(tool(t, "tshark", "-r", path, "-T", "fields", "-e", "frame.number"), "\n")
	if frames != 10 {
		t.Errorf("tshark shows %d packets, want 10", frames)
	}
	var got tape
	if _, err := Replay(bytes.NewReader(file), &got); err != nil || !reflect.DeepEqual(got.items, items) {
		t.Error("replay differs:", err)
	}
	copied := filepath.Join(t.TempDir(), "copy.pcapng")
	tool(t, "editcap", path, copied)
	if result, err := Replay(openFile(t, copied), &tape{}); err != nil || result.Missing != 1 || result.Records != 12 {
		t.Errorf("after editcap: %+v, %v", result, err)
	}
}

func TestGopacketReadsRecording(t *testing.T) {
	r, err := pcapgo.NewNgReader(bytes.NewReader(recorded(t, journeyItems())), pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	type seen struct {
		iface string
		link  layers.LinkType
		nanos int64
		bytes int
		wire  int
	}
	var got []seen
	for {
		data, ci, err := r.ReadPacketData()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		face, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, seen{face.Name, face.LinkType, ci.Timestamp.UnixNano() - testWall - testBoot, len(data), ci.Length})
	}
	want := []seen{
		{"lb/nsm-1", layers.LinkTypeEthernet, 0, 74, 74},
		{"lb/nsm-1", layers.LinkTypeEthernet, 1000, 78, 78},
		{"lb/if8", layers.LinkTypeEthernet, 2000, 40, 74},
		{"lb/nsm-1", layers.LinkTypeRaw, 3000, 60, 60},
		{"-/-", layers.LinkTypeEthernet, 5000, 74, 74},
		{"lb/nsm-1", layers.LinkTypeEthernet, 6000, 60, 74},
		{"lb/nsm-1", layers.LinkTypeEthernet, 7000, 74, 74},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}
