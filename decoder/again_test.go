// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"bytes"
	"maps"
	"strings"
	"testing"
)

// storedJourneys are those of a stored recording, with their packets.
func storedJourneys(t *testing.T, name string) []*Journey {
	t.Helper()
	var all []*Journey
	s := NewStitcher(Options{Originals: true, Emit: func(j *Journey) { all = append(all, j) }})
	if _, err := Replay(openFile(t, "testdata/recording/"+name+".pcapng"), s); err != nil {
		t.Fatal(err)
	}
	s.Flush()
	return all
}

func TestSendable(t *testing.T) {
	for name, want := range map[string]struct {
		sent int
		left map[string]int
	}{
		"format1-there-and-back": {1, map[string]int{"answers": 1}},
		"format1-vip-missing":    {1, map[string]int{}},
		"format1-nat-service":    {0, map[string]int{"answers": 1, "whose sender was not traced": 1}},
	} {
		sent, left := Sendable(storedJourneys(t, name))
		if len(sent) != want.sent || !maps.Equal(left, want.left) {
			t.Errorf("%s: %d sent, left %v; want %d, %v", name, len(sent), left, want.sent, want.left)
		}
		for _, j := range sent {
			if _, err := j.Original.Whole(); err != nil {
				t.Errorf("%s: %s: %v", name, j.ID, err)
			}
		}
	}
}

// TestCompareAgain puts stored recordings of one connection beside each other, as if
// one were what came of the other's packets.
func TestCompareAgain(t *testing.T) {
	for _, tt := range []struct {
		before, now string
		differ      int
		want        string
	}{
		{
			"format1-there-and-back", "format1-there-and-back", 0,
			`same     tcp 200.100.0.1:40000 → 10.0.0.1:5000 S len 40: delivered
same     tcp 10.0.0.1:5000 → 200.100.0.1:40000 S. len 40 (answer): back at the sender
`,
		},
		{
			"format1-vip-missing", "format1-there-and-back", 2,
			`differs  tcp 200.100.0.1:40000 → 10.0.0.1:5000 S len 40: dropped before, delivered now
    wm-meridio-gw/ext0              leaves
    wm-meridio-lb/nsm-1             enters
    wm-meridio-lb/load-balan-274a   leaves
    wm-meridio-px/load-balan-b0ef   enters
    wm-meridio-px/proxy.load-0001   leaves
    red/target-a/nsc                enters
  - red/target-a/nsc                dropped: IP_INADDRERRORS
  + red/target-a                    delivered (10.0.0.1 is local)
differs  tcp 10.0.0.1:5000 → 200.100.0.1:40000 S. len 40 (answer): not seen before, back at the sender now
  - not seen
  + red/target-a/nsc                leaves
  + wm-meridio-px/proxy.load-0001   enters
  + wm-meridio-px/bridge0           enters
  + wm-meridio-px/bridge0           leaves
  + wm-meridio-px/load-balan-b0ef   leaves
  + wm-meridio-lb/load-balan-274a   enters
  + wm-meridio-lb/nsm-1             leaves
  + wm-meridio-gw/ext0              enters
  + wm-meridio-gw                   back at the sender
`,
		},
		{
			"format1-there-and-back", "format1-vip-missing", 2,
			`differs  tcp 200.100.0.1:40000 → 10.0.0.1:5000 S len 40: delivered before, dropped now
    wm-meridio-gw/ext0              leaves
    wm-meridio-lb/nsm-1             enters
    wm-meridio-lb/load-balan-274a   leaves
    wm-meridio-px/load-balan-b0ef   enters
    wm-meridio-px/proxy.load-0001   leaves
    red/target-a/nsc                enters
  - red/target-a                    delivered (10.0.0.1 is local)
  + red/target-a/nsc                dropped: IP_INADDRERRORS
                                    because 10.0.0.1 is no address of wm-meridio-t1, which does not forward
                                    advice: add the VIP in wm-meridio-t1 (` + "`ip addr add 10.0.0.1 dev nsc`" + `), or see why the target's agent did not
differs  tcp 10.0.0.1:5000 → 200.100.0.1:40000 S. len 40 (answer): back at the sender before, not seen now
  - red/target-a/nsc                leaves
  - wm-meridio-px/proxy.load-0001   enters
  - wm-meridio-px/bridge0           enters
  - wm-meridio-px/bridge0           leaves
  - wm-meridio-px/load-balan-b0ef   leaves
  - wm-meridio-lb/load-balan-274a   enters
  - wm-meridio-lb/nsm-1             leaves
  - wm-meridio-gw/ext0              enters
  - wm-meridio-gw                   back at the sender
  + not seen
`,
		},
	} {
		before := storedJourneys(t, tt.before)
		sent, _ := Sendable(before)
		var out bytes.Buffer
		differ, err := WriteAgain(&out, CompareAgain(before, sent, storedJourneys(t, tt.now)))
		if err != nil || differ != tt.differ || out.String() != tt.want {
			t.Errorf("%s, now %s: %d differ, %v\n%s\nwant %d\n%s", tt.before, tt.now, differ, err, out.String(), tt.differ, tt.want)
		}
	}
}

// TestAgainEndsAtTheSender: that nobody waits for an answer any more is no matter,
// that it is lost before is one.
func TestAgainEndsAtTheSender(t *testing.T) {
	answer := storedJourneys(t, "format1-there-and-back")[1]
	a := &Again{Before: answer, Answer: true, sender: "wm-meridio-gw"}
	for at, want := range map[string]bool{
		"tcp_v4_rcv+0x1a4": true, "__udp4_lib_rcv+0x2": true, "udp_unicast_rcv_skb": true, "icmp_rcv+0x1": true,
		"ip_rcv_finish_core+0x1": false, "nf_hook_slow": false, "": false,
	} {
		now := *answer
		now.Outcome, now.Drop = Dropped, &Drop{Reason: "NO_SOCKET", At: at, Netns: "wm-meridio-gw", Dev: "ext0"}
		a.Now = &now
		if a.Same() != want {
			t.Errorf("dropped at %q: the same %v, want %v", at, a.Same(), want)
		}
	}
	a.sender = "wm-meridio-t2"
	if got := strings.Join(a.way(answer), "\n"); strings.Contains(got, "back at") {
		t.Errorf("it did not come back:\n%s", got)
	}
}
