// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"waymark/scenarios"
)

// TestSegmentsAreNoLoss: where a big packet is cut for a device, the segments
// are its children, and what is left of it is no drop.
func TestSegmentsAreNoLoss(t *testing.T) {
	w := labUpFor(t)
	refuseBigPackets(t, w.Namespace("lb"), "load-balan-274a")
	args := append([]string{"trace", "-o", "json"}, netnsFlags(w)...)
	tr := start(t, append(args, "tcp", "any", "10.0.0.1:5000")...)
	sum, err := w.Send(ctxBackground, scenarios.Traffic{Size: 60_000, Connections: 5}, nil)
	if err != nil || sum.Answered != 5 {
		t.Fatalf("%+v: %v", sum, err)
	}
	all := parseJourneys(t, tr.stop(t))
	// On a slow machine one may wait in the queue for so long that two journeys
	// tell of it.
	torn := map[string]bool{}
	for _, j := range all {
		torn[j.ID] = torn[j.ID] || !j.Complete
	}
	big, cut := 0, 0
	for _, j := range all {
		if j.refusedByTCP() || torn[j.ID] {
			continue
		}
		if j.Drop != nil {
			t.Errorf("%s of %d bytes: dropped at %s %s", j.ID, j.Packet.Len, j.Drop.At, j.Drop.Reason)
		}
		if j.Packet.Len < 1600 || j.Reply {
			continue
		}
		big++
		segments := 0
		for _, h := range j.Hops {
			if h.Hook == "segment" {
				segments = int(h.Detail["segments"].(float64))
			}
		}
		if segments == 0 {
			continue
		}
		cut++
		// Every segment goes the rest of the way.
		if n := strings.Count(j.way(), "/nsc in"); n != segments || j.Outcome != "delivered" {
			t.Errorf("%s of %d bytes was cut into %d, of which %d arrived; %s", j.ID, j.Packet.Len, segments, n, j.Outcome)
		}
	}
	if big == 0 {
		dump(t, all)
		t.Fatal("no packet was bigger than the MTU")
	}
	if !showsFunctions() {
		t.Logf("this kernel does not show segments: doctor says so; %d big packets", big)
		return
	}
	if cut != big {
		t.Errorf("%d of %d big packets are told to be cut", cut, big)
	}
}

// TestSegmentsForTheQueue: a balancer that does not take big packets whole gets
// their segments, which the kernel cuts for the queue; what is left of the big
// packet is no drop.
func TestSegmentsForTheQueue(t *testing.T) {
	w := labUpFor(t)
	if err := w.Fault(ctxBackground, "no-listener"); err != nil {
		t.Fatal(err)
	}
	for queue := range 4 {
		balanceWithoutGSO(t, w, uint16(queue), 5001+uint32(targetOf["target-2"]))
	}
	args := append([]string{"trace", "-o", "json"}, netnsFlags(w)...)
	tr := start(t, append(args, "tcp", "any", "10.0.0.1:5000")...)
	sum, err := w.Send(ctxBackground, scenarios.Traffic{Size: 60_000, Connections: 5, Timeout: time.Minute}, nil)
	if err != nil || sum.Answered != 5 || sum.Targets["target-2"] != 5 {
		t.Fatalf("%+v: %v", sum, err)
	}
	awaitClosed(t, w)
	all := parseJourneys(t, tr.stop(t))
	big, cut := 0, 0
	for _, j := range all {
		if j.Drop != nil && !j.refusedByTCP() {
			t.Errorf("%s of %d bytes: dropped at %s %s", j.ID, j.Packet.Len, j.Drop.At, j.Drop.Reason)
		}
		if j.Packet.Len < 1600 || j.Reply {
			continue
		}
		big++
		for _, h := range j.Hops {
			if h.Hook == "segment" {
				cut++
			}
		}
	}
	if big == 0 {
		dump(t, all)
		t.Fatal("no packet was bigger than the MTU")
	}
	if showsFunctions() && cut != big {
		t.Errorf("%d of %d big packets are told to be cut", cut, big)
	}
}

// balanceWithoutGSO gives all packets of a queue of the load balancer the mark.
func balanceWithoutGSO(t *testing.T, w *scenarios.World, queue uint16, mark uint32) {
	t.Helper()
	ns, err := netns.GetFromName(w.Namespace("lb"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	nf, err := nfqueue.Open(&nfqueue.Config{
		NetNS: int(ns), NfQueue: queue, MaxPacketLen: 128, MaxQueueLen: 1024, Copymode: nfqueue.NfQnlCopyPacket,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nf.Close() })
	err = nf.RegisterWithErrorFunc(ctxBackground, func(a nfqueue.Attribute) int {
		if err := nf.SetVerdictWithOption(*a.PacketID, nfqueue.NfAccept, nfqueue.WithMark(mark)); err != nil {
			t.Error(err)
		}
		return 0
	}, func(error) int { return 0 })
	if err != nil {
		t.Fatal(err)
	}
}

// refuseBigPackets makes a device take single segments only.
func refuseBigPackets(t *testing.T, namespace, device string) {
	t.Helper()
	ns, err := netns.GetFromName(namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName(device)
	if err == nil {
		err = h.LinkSetGSOMaxSegs(link, 1)
	}
	if err != nil {
		t.Fatalf("no big packets on %s: %v", device, err)
	}
}
