// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"waymark/bpf"
	"waymark/decoder"
	"waymark/scenarios"
)

// TestNoJourneyMixesPackets opens many connections at full speed, so that
// sk_buffs are reused as fast as can be, and checks by content, from the
// packets' own bytes, that every trail is one packet, and that no journey is
// called complete that is not.
//
// WAYMARK_CONNECTIONS sets how many; inside the VMs, where every instruction
// is emulated, there are fewer.
func TestNoJourneyMixesPackets(t *testing.T) {
	connections := 10_000
	if v := os.Getenv("WAYMARK_CONNECTIONS"); v != "" {
		var err error
		if connections, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	w := labUpFor(t)
	send := func(t *testing.T, n int) {
		sum, err := w.Send(ctxBackground, scenarios.Traffic{Connections: n}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if sum.Answered != n {
			t.Errorf("%d of %d connections were answered: %v", sum.Answered, n, sum.Errors)
		}
	}
	t.Run("reader as it is", func(t *testing.T) {
		traceConnections(t, w, func(*running) { send(t, connections) })
	})
	// A reader that stands still for a while, and a ring that does not hold
	// what comes in the meantime.
	t.Run("reader stopped", func(t *testing.T) {
		third := connections / 3
		const connectionBytes = 17_000 // of records, about
		ring := 1 << 20
		for ring*8 <= third*connectionBytes {
			ring *= 2
		}
		got := traceConnections(t, w, func(tr *running) {
			send(t, third)
			tr.signal(t, syscall.SIGSTOP)
			send(t, third)
			tr.signal(t, syscall.SIGCONT)
			send(t, third)
			awaitClosed(t, w) // what is lost is told of by now
			send(t, third)
		}, "--ring", strconv.Itoa(ring))
		if got.lost == 0 || got.complete == 0 || got.incomplete == 0 {
			t.Error("this is no test of telling what is complete from what is not")
		}
	})
}

// traced is what traceConnections found.
type traced struct {
	lost                 uint64 // records
	complete, incomplete int    // journeys
}

// traceConnections traces what send does, and checks what was printed against
// the recording.
func traceConnections(t *testing.T, w *scenarios.World, send func(*running), flags ...string) traced {
	file := filepath.Join(t.TempDir(), "many.pcapng")
	args := append([]string{"trace", "-o", "json", "-w", file}, netnsFlags(w)...)
	tr := start(t, append(append(args, flags...), "tcp", "any", "10.0.0.1:5000")...)
	send(tr)
	awaitClosed(t, w)
	all := parseJourneys(t, tr.stop(t))
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	check := &contents{first: map[uint64]string{}}
	if _, err := decoder.Replay(f, check); err != nil {
		t.Fatal(err)
	}
	for _, e := range check.errs[:min(len(check.errs), 5)] {
		t.Error(e)
	}
	continued := map[string]bool{}
	for _, j := range all {
		if j.hasNote("after a silence") {
			continued[j.ID] = true
		}
	}
	incomplete, holes := 0, 0
	for _, j := range all {
		// What is called complete has every device on the way, or says that it
		// goes on and does.
		whole := wholeWay.MatchString(j.way()) || j.Outcome == "open" && continued[j.ID]
		if j.Complete && j.Drop == nil && !whole {
			if holes++; holes <= 5 {
				t.Errorf("%s %s is called complete: %s", j.ID, j.Packet.Flags, j.way())
			}
		}
		if j.Complete {
			continue
		}
		incomplete++
		if len(j.Notes) == 0 {
			t.Errorf("%s is not complete and does not say why", j.ID)
		}
	}
	t.Logf("%d records with bytes, %d trails, %d mixed; %d journeys, %d not complete, %d after a silence, %d with unnamed holes; %d records lost",
		check.records, len(check.first), len(check.errs), len(all), incomplete, len(continued), holes, check.lost)
	if incomplete > len(continued) && check.lost == 0 {
		t.Errorf("%d journeys are not complete, and nothing was lost", incomplete)
	}
	return traced{lost: check.lost, complete: len(all) - incomplete, incomplete: incomplete}
}

func (j *journey) hasNote(part string) bool {
	return slices.ContainsFunc(j.Notes, func(n string) bool { return strings.Contains(n, part) })
}

// wholeWay is the way of a packet to a target, or of its reply, through every
// device, in words of journey.way.
var wholeWay = regexp.MustCompile(`^(gw/ext0 out, lb/nsm-1 in, .*lb/load-balan-274a out, px/load-balan-b0ef in, px/proxy.load-000. out, t./nsc in` +
	`|t./nsc out, px/proxy.load-000. in, px/bridge0 in, .*px/bridge0 out, px/load-balan-b0ef out, lb/load-balan-274a in, .*lb/nsm-1 out, gw/ext0 in), delivered$`)

// contents remembers what the first packet of each trail was, from its bytes,
// and complains about records that are another.
type contents struct {
	first   map[uint64]string
	records int
	lost    uint64
	errs    []error
	rec     bpf.Record
}

func (c *contents) Context(x *decoder.Context) error {
	if x.Loss != nil {
		c.lost += x.Loss.Count
	}
	return nil
}

func (c *contents) Record(raw []byte) error {
	snap, err := c.rec.Decode(raw)
	if err != nil {
		return err
	}
	if len(snap) == 0 || c.rec.Trail == 0 {
		return nil
	}
	c.records++
	what, err := identity(snap, c.rec.Flags&bpf.FlagL3 != 0)
	if err != nil {
		return err
	}
	trail := c.rec.Trail
	if c.rec.Parent != 0 {
		trail = c.rec.Parent
	}
	if was, ok := c.first[trail]; ok && was != what {
		c.errs = append(c.errs, fmt.Errorf("trail %d was %s, and then %s at hook %d", trail, was, what, c.rec.Hook))
	} else if !ok {
		c.first[trail] = what
	}
	return nil
}

// identity is what tells a TCP segment from any other: addresses, ports,
// sequence and acknowledgement, flags, length and IP id.
func identity(snap []byte, l3 bool) (string, error) {
	first := gopacket.Decoder(layers.LayerTypeEthernet)
	if l3 {
		first = layers.LayerTypeIPv4
	}
	p := gopacket.NewPacket(snap, first, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	ip, ok := p.NetworkLayer().(*layers.IPv4)
	if !ok {
		return "", errors.New("a record of a packet that is not IPv4")
	}
	tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if !ok {
		return "", errors.New("a record of a packet that is not TCP")
	}
	return fmt.Sprintf("%s:%d→%s:%d seq %d ack %d flags %d%v%v%v len %d id %d", ip.SrcIP, tcp.SrcPort, ip.DstIP, tcp.DstPort,
		tcp.Seq, tcp.Ack, tcp.Window, tcp.SYN, tcp.FIN, tcp.PSH, ip.Length, ip.Id), nil
}
