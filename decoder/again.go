// SPDX-License-Identifier: Apache-2.0

// What became of packets that were sent again, beside what became of them before.

package decoder

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Sendable picks, of journeys in the order of time, those whose packets can be sent
// again and mean then what they meant before: of a TCP connection its opening, once;
// of UDP every request; echo requests. All the rest are answers, or hold numbers
// from answers that will be others the next time. left says how many are not among
// them, by why.
func Sendable(all []*Journey) (send []*Journey, left map[string]int) {
	left = map[string]int{}
	opened := map[string]bool{}
	for _, j := range all {
		why := ""
		switch opening := fmt.Sprint(j.Flow, j.Packet.TCPFlags); {
		case j.Reply:
			why = "answers"
		case j.Packet.Proto == "tcp" && j.Packet.TCPFlags != "S":
			why = "later packets of TCP connections"
		case j.Packet.Proto == "tcp" && opened[opening]:
			why = "openings of connections that were sent before"
		case !slices.Contains([]string{"tcp", "udp", "icmp", "icmp6"}, j.Packet.Proto), strings.HasPrefix(j.Packet.Proto, "icmp") && j.Packet.ICMPID == nil:
			why = "of protocols that are not TCP, UDP or echo"
		case j.Original == nil, !j.Original.Sent, len(j.Hops) == 0:
			why = "whose sender was not traced"
		default:
			opened[opening] = true
			send = append(send, j)
			continue
		}
		left[why]++
	}
	return send, left
}

// Again is a packet's journey before and, sent again, now. Of an answer the packets
// are two that answer the same.
type Again struct {
	Before, Now *Journey // nil: there was none
	Answer      bool

	sender string // namespace of who asked, for an answer
}

// CompareAgain puts the journeys of packets that were sent again beside those that
// they had before, and so the first answer to each TCP connection and every other
// answer, but no ICMP errors. An answer that reaches who asked before is at its end:
// now nobody waits for it there, and TCP resets it. before are the journeys of the
// recording and sent those of them that were sent again, now what came of it; all in
// the order of time.
func CompareAgain(before, sent, now []*Journey) []Again {
	nth := map[string]int{}
	known := map[string]*Journey{}
	for _, j := range now {
		key := againKey(j)
		known[fmt.Sprint(key, " ", nth[key])] = j
		nth[key]++
	}
	clear(nth)
	var all []Again
	add := func(j *Journey, sender string) {
		key := againKey(j)
		all = append(all, Again{Before: j, Now: known[fmt.Sprint(key, " ", nth[key])], Answer: sender != "", sender: sender})
		nth[key]++
	}
	senders := map[string]string{} // by flow
	for _, j := range sent {
		senders[j.Flow] = j.Hops[0].Netns
		add(j, "")
	}
	answered := map[string]bool{}
	for _, j := range before {
		if sender := senders[j.Flow]; sender != "" && answers(j) && (j.Packet.Proto != "tcp" || !answered[j.Flow]) {
			answered[j.Flow] = true
			add(j, sender)
		}
	}
	for _, j := range now { // what was not answered before
		if sender := senders[j.Flow]; sender != "" && answers(j) && !answered[j.Flow] {
			answered[j.Flow] = true
			all = append(all, Again{Now: j, Answer: true, sender: sender})
		}
	}
	slices.SortStableFunc(all, func(a, b Again) int { return cmp.Compare(a.start(), b.start()) })
	return all
}

// answers tells whether j is an answer, and no router's error about one of the flow's
// packets.
func answers(j *Journey) bool { return j.Reply && j.Packet.Inner == nil }

// againKey tells a packet from all others but those sent like it.
func againKey(j *Journey) string {
	if j.Reply && j.Packet.Proto == "tcp" {
		return j.Flow + " answer"
	}
	key := fmt.Sprint(j.Flow, j.Reply, j.Packet.TCPFlags, j.Packet.FragOff)
	if j.Packet.ICMPSeq != nil {
		key += fmt.Sprint(" seq ", *j.Packet.ICMPSeq)
	}
	return key
}

// start orders by the recording's time; what only came now is behind it.
func (a *Again) start() WallTime {
	if a.Before != nil {
		return a.Before.Start
	}
	return a.Now.Start
}

// Same tells whether both went the same way and ended the same.
func (a *Again) Same() bool { return slices.Equal(a.way(a.Before), a.way(a.Now)) }

// way is a journey without its times: the devices it passed, what a balancer
// decided, and how it ended.
func (a *Again) way(j *Journey) []string {
	if j == nil {
		return []string{"not seen"}
	}
	var lines []string
	for _, l := range (&TextWriter{}).journeyLines(j) {
		group, _, _ := strings.Cut(l.kind, "/")
		switch group {
		case GroupDevice, GroupLB, lineEnd:
			what := l.what
			switch {
			case l.kind != lineEnd:
			case a.cameBack(j):
				l.dev, what = "", "back at the sender"
			case j.Outcome == Dropped:
				what = "dropped: " + j.Drop.Reason // where in the kernel is its build's affair
			}
			if l.trail != 0 {
				what += " (a copy)"
			}
			lines = append(lines, fmt.Sprintf("%-*s  %s", placeWidth, l.place(), what))
		}
	}
	return lines
}

// cameBack tells whether j is an answer that reached the transport layer of who
// asked: there it ends, whether anybody waits for it or not.
func (a *Again) cameBack(j *Journey) bool {
	if !a.Answer {
		return false
	}
	for i := len(j.Hops) - 1; i >= 0; i-- {
		h := &j.Hops[i]
		if h.Group != GroupDevice || h.Trail != 0 {
			continue
		}
		if h.Netns != a.sender || h.Hook != "ingress" {
			return false
		}
		break
	}
	if j.Outcome != Dropped {
		return j.Outcome == Delivered || j.Outcome == Consumed
	}
	at := strings.TrimLeft(j.Drop.At, "_")
	return slices.ContainsFunc([]string{"tcp_", "udp", "icmp", "ping_"}, func(f string) bool { return strings.HasPrefix(at, f) })
}

// outcome is how it ended, in words.
func (a *Again) outcome(j *Journey) string {
	switch {
	case j == nil:
		return "not seen"
	case a.cameBack(j):
		return "back at the sender"
	}
	return string(j.Outcome)
}

// WriteAgain prints what is the same in a line, and what differs as the lines that
// are no more (-) and that are new (+). It returns how many differ.
func WriteAgain(w io.Writer, all []Again) (differ int, err error) {
	var errs []error
	printf := func(format string, args ...any) {
		_, err := fmt.Fprintf(w, format, args...)
		errs = append(errs, err)
	}
	for i := range all {
		a := &all[i]
		j := cmp.Or(a.Before, a.Now)
		name := j.Packet.text()
		if a.Answer {
			name += " (answer)"
		}
		if a.Same() {
			printf("same     %s: %s\n", name, a.outcome(a.Now))
			continue
		}
		differ++
		printf("differs  %s: %s before, %s now\n", name, a.outcome(a.Before), a.outcome(a.Now))
		before, now := a.way(a.Before), a.way(a.Now)
		head := 0
		for head < min(len(before), len(now)) && before[head] == now[head] {
			head++
		}
		for _, part := range []struct {
			mark  string
			lines []string
		}{{" ", before[:head]}, {"-", before[head:]}, {"+", now[head:]}} {
			for _, l := range part.lines {
				printf("  %s %s\n", part.mark, l)
			}
		}
		if a.Now != nil && a.Now.Drop != nil && !a.cameBack(a.Now) {
			printf("  %*s  because %s\n", placeWidth+2, "", cmp.Or(a.Now.Drop.Because, "of what nobody knows"))
			if a.Now.Drop.Advice != "" {
				printf("  %*s  advice: %s\n", placeWidth+2, "", a.Now.Drop.Advice)
			}
		}
	}
	return differ, errors.Join(errs...)
}
