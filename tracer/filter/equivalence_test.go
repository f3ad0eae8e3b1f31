// SPDX-License-Identifier: Apache-2.0

// The promise of the package: a filter selects the packets that tcpdump
// selects, in the reference and in every stub.

package filter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

func writePcap(t *testing.T, ps []packet) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "in.pcap")
	h, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	w := pcapgo.NewWriter(h)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for i, p := range ps { // the time is the packet's name
		ci := gopacket.CaptureInfo{Timestamp: time.Unix(int64(i), 0), CaptureLength: len(p.data), Length: p.wire}
		if err := w.WritePacket(ci, p.data); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// tcpdump returns which packets it selects.
func tcpdump(t *testing.T, file, expr string, n int, flags ...string) []bool {
	t.Helper()
	cmd := exec.Command("tcpdump", append(flags, "-Z", "root", "-r", file, "-w", "-", "--", expr)...)
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	selected := make([]bool, n)
	if err := cmd.Run(); err != nil {
		if strings.Contains(msg.String(), "rejects all packets") {
			return selected
		}
		if strings.Contains(msg.String(), " by zero") {
			return nil // its optimizer's word, for random expressions only
		}
		t.Fatalf("tcpdump %q: %v: %s", expr, err, msg.String())
	}
	r, err := pcapgo.NewReader(&out)
	if errors.Is(err, io.EOF) {
		return selected
	}
	if err != nil {
		t.Fatalf("tcpdump %q: %v: %s", expr, err, msg.String())
	}
	for {
		_, ci, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return selected
		}
		if err != nil {
			t.Fatal(err)
		}
		selected[ci.Timestamp.Unix()] = true
	}
}

func TestSameAsTcpdump(t *testing.T) {
	if _, err := exec.LookPath("tcpdump"); err != nil {
		unavailable(t, "tcpdump is not installed (apt-get install tcpdump)")
	}
	ps := packets(t)
	file := writePcap(t, ps)
	all := slices.Concat(expressions, randomExpressions())
	t.Logf("%d expressions, %d packets", len(all), len(ps))
	for _, expr := range all {
		want := tcpdump(t, file, expr, len(ps))
		f, err := Parse([]string{expr})
		if want == nil {
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", expr, err)
			continue
		}
		wrong := 0
		var plain []bool
		for i, p := range ps {
			if got := f.Match(p.data, p.wire); got != want[i] {
				// tcpdump's optimizer reorders tests, which shows where a
				// packet ends between them: then its plain code is the judge.
				if plain == nil {
					plain = tcpdump(t, file, expr, len(ps), "-O")
				}
				if got == plain[i] {
					t.Logf("%q: packet %d (%d of %d bytes): as tcpdump -O", expr, i, len(p.data), p.wire)
					continue
				}
				if wrong++; wrong == 1 {
					t.Errorf("%q: packet %d (%d of %d bytes): got %v, tcpdump %v: %x\n%s", expr, i, len(p.data), p.wire, got, want[i], p.data, disassemble(f.frame))
				}
			}
		}
		if wrong > 1 {
			t.Errorf("%q: %d packets differ", expr, wrong)
		}
	}
}

// TestStubsSameAsMatch compares the programs in the kernel with the reference,
// which TestSameAsTcpdump compares with tcpdump.
func TestStubsSameAsMatch(t *testing.T) {
	runnable(t)
	ps := packets(t)
	random := randomExpressions()
	if testing.Short() { // in a virtual machine without KVM, every thirtieth packet
		var some []packet
		for i := 0; i < len(ps); i += 30 {
			some = append(some, ps[i])
		}
		ps, random = some, random[:len(random)/4]
	}
	all := slices.Concat(expressions, tunnelExpressions, random)
	const parts = 4
	for part := range parts {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			compared := 0
			for i := part; i < len(all); i += parts {
				compared += compareStubs(t, all[i], ps)
			}
			t.Logf("%d comparisons", compared)
		})
	}
}

// compareStubs runs the packets through all programs of one expression.
func compareStubs(t *testing.T, expr string, ps []packet) (compared int) {
	t.Helper()
	f, err := Parse([]string{expr})
	if err != nil {
		t.Fatal(err)
	}
	coll := loadFilter(t, f)
	slow := loadSlow(t, f)
	network := !strings.Contains(expr, "ether") && !strings.Contains(expr, "link") && !strings.Contains(expr, "cast")
	wrong := map[string]int{}
	check := func(name string, p packet, want, got bool) {
		compared++
		if got != want {
			if wrong[name]++; wrong[name] == 1 {
				t.Errorf("%q: %s: got %v, reference %v (%d of %d bytes): %x", expr, name, got, want, len(p.data), p.wire, p.data)
			}
		}
	}
	for _, p := range ps {
		asFrame := f.Match(p.data, len(p.data)) // there is no shorter capture at TC
		check("filter_tc", p, asFrame, runSKB(t, coll.Programs["main_tc"], p.data, 0))
		check("filter_tc with helpers", p, asFrame, runSKB(t, slow.Programs["main_tc"], p.data, 0))

		asCaptured := f.Match(p.data, p.wire)
		check("filter_l2", p, asCaptured, runCopy(t, coll, "main_l2", p.data, 0, uint32(p.wire)))
		typ := binary.BigEndian.Uint16(p.data[12:])
		if network && typ > maxLength8023 {
			check("filter_l3", p, asCaptured, runCopy(t, coll, "main_l3", p.data, uint32(typ), uint32(p.wire)))
		}
		if typ != 0x8100 && typ != 0x88a8 || len(p.data) < 18 {
			continue
		}
		// The same with the outer tag in metadata, as the kernel has it.
		tci := binary.BigEndian.Uint16(p.data[14:])
		stripped := append(append([]byte{}, p.data[:12]...), p.data[16:]...)
		vlan := uint32(vlanPresent) | uint32(tci)
		if typ == 0x88a8 {
			vlan |= vlan8021ad
		}
		check("filter_l2, tag in metadata", p, asCaptured, runCopy(t, coll, "main_l2", stripped, vlan, uint32(p.wire-4)))
		mark := uint32(typ)<<16 | uint32(tci)
		check("filter_tc, tag in metadata", p, asFrame, runSKB(t, coll.Programs["main_push"], stripped, mark))
		check("filter_tc with helpers, tag in metadata", p, asFrame, runSKB(t, slow.Programs["main_push"], stripped, mark))
	}
	for name, n := range wrong {
		t.Errorf("%q: %s: %d packets differ", expr, name, n)
	}
	coll.Close()
	slow.Close()
	return compared
}
