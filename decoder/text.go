// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// TextOptions shape what a TextWriter prints.
type TextOptions struct {
	Color bool // ANSI colours
	Nodes bool // flows and counts of drops name their node
}

// TextWriter prints for a person: a short line per hop.
type TextWriter struct {
	w   io.Writer
	opt TextOptions
	b   []byte
	at  [32]byte // a line's time

	lines []textLine // of the journey being printed
}

// NewTextWriter returns a writer to w; every call is one Write.
func NewTextWriter(w io.Writer, o TextOptions) *TextWriter { return &TextWriter{w: w, opt: o} }

// Colours (ECMA-48 SGR).
const (
	bold   = "\x1b[1m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	dim    = "\x1b[2m"
	plain  = "\x1b[0m"
)

func (w *TextWriter) color(c, s string) string {
	if !w.opt.Color || s == "" {
		return s
	}
	return c + s + plain
}

func (w *TextWriter) flush() error {
	_, err := w.w.Write(w.b)
	w.b = w.b[:0]
	return err
}

func (w *TextWriter) printf(format string, args ...any) { w.b = fmt.Appendf(w.b, format, args...) }

// Widths of the columns: time since the start, and place if it is not longer.
const (
	timeWidth  = 11
	placeWidth = 30
)

// Journey implements Writer.
func (w *TextWriter) Journey(j *Journey) error {
	w.b = append(append(w.b, j.Start.clock()...), ' ')
	w.b = append(append(w.b, w.color(bold, j.Packet.text())...), "  "...)
	w.b = append(append(w.b, w.color(dim, "#"+j.ID)...), '\n')
	width := j.placeWidth()
	for _, l := range w.journeyLines(j) {
		w.line(&l, width)
	}
	return w.flush()
}

// textLine is one line about a journey. The page has the same lines.
type textLine struct {
	kind string // what it tells of: GROUP/HOOK, or one of the line kinds
	t    uint64 // ns since the start

	// The place; without one it says more about the line before.
	box string // namespace, or the pod that stands for it
	dev string

	what, mark string
	trail      uint64 // of a copy
}

func (l *textLine) place() string { return place(l.box, l.dev) }

// Kinds of lines that tell no hop.
const (
	lineEnd     = "end" // the outcome, of a loss too
	lineBecause = "because"
	lineAdvice  = "advice"
	lineNote    = "note"
)

// journeyLines are the lines below the headline; they hold until the next call.
func (w *TextWriter) journeyLines(j *Journey) []textLine {
	w.lines = w.lines[:0]
	for i := range j.Hops {
		h := &j.Hops[i]
		if d, ok := h.Detail.(*DropDetail); ok && d.Normal == "" && j.Drop != nil && i == j.dropHop() {
			continue // the last line tells it in full
		}
		if d, ok := h.Detail.(*NetfilterDetail); ok && d.dull(h.Verdict) {
			continue
		}
		w.lines = append(w.lines, textLine{
			kind: h.Group + "/" + h.Hook, t: h.TNs, box: cmp.Or(h.Pod, h.Netns), dev: h.Dev, what: w.hop(h), mark: h.markText(), trail: h.Trail,
		})
	}
	w.last(j)
	for _, n := range j.Notes {
		w.more(lineNote, w.color(yellow, "note: "+n))
	}
	return w.lines
}

// more adds a line that says more about the one before.
func (w *TextWriter) more(kind, what string) {
	w.lines = append(w.lines, textLine{kind: kind, what: what})
}

// line prints one aligned line.
func (w *TextWriter) line(l *textLine, width int) {
	var at []byte
	if l.box != "" || l.dev != "" {
		at = appendMicros(w.at[:0], l.t)
	}
	w.b = spaces(w.b, timeWidth-utf8.RuneCount(at))
	w.b = append(append(w.b, at...), "  "...)
	start := len(w.b)
	w.b = appendPlace(w.b, l.box, l.dev)
	w.b = spaces(w.b, width-utf8.RuneCount(w.b[start:]))
	w.b = append(append(w.b, "  "...), l.what...)
	if l.mark != "" {
		w.b = append(append(w.b, "   "...), l.mark...)
	}
	w.b = append(w.b, '\n')
}

func spaces(b []byte, n int) []byte {
	for range n {
		b = append(b, ' ')
	}
	return b
}

// last adds the line with the outcome, and for a loss what it was.
func (w *TextWriter) last(j *Journey) {
	end := &j.end
	what := ""
	switch j.Outcome {
	case Dropped:
		d := j.Drop
		t := j.DurationNs
		if i := j.dropHop(); i >= 0 {
			t = j.Hops[i].TNs
		}
		w.lines = append(w.lines, textLine{kind: lineEnd, t: t, box: cmp.Or(d.Pod, d.Netns), dev: d.Dev, what: w.dropped(d.Reason, d.At)})
		w.why(d)
		return
	case Delivered:
		what = w.color(green, "delivered")
		if end.local.IsValid() {
			what += " (" + end.local.String() + " is local)"
		}
		if j.Because != "" {
			what += w.color(red, ", but not answered")
		}
	case Forwarded:
		what = w.color(green, "forwarded")
		if end.dev != "" {
			what += " by " + end.dev
		}
	case Consumed:
		what = "consumed"
		if j.EndedAt != "" {
			what += " at " + j.EndedAt
		}
	default:
		what = w.color(yellow, "open: its end was not seen")
		if end.queue != nil {
			what = w.color(yellow, fmt.Sprintf("open: it still waits in queue %d", *end.queue))
		}
	}
	w.lines = append(w.lines, textLine{kind: lineEnd, t: end.t, box: cmp.Or(end.netns, j.Node), what: what})
	if j.Because != "" {
		because := "because " + j.Because
		if j.Since != 0 {
			because += " (since " + j.Since.clock() + ")"
		}
		w.more(lineBecause, because)
		w.more(lineAdvice, "advice: "+j.Advice)
	}
}

func (w *TextWriter) dropped(reason, at string) string {
	s := w.color(red, "dropped: "+reason)
	if at != "" {
		s += " at " + at
	}
	return s
}

func (w *TextWriter) why(d *Drop) {
	if d.Because != "" {
		w.more(lineBecause, "because "+d.Because)
	}
	if d.Advice != "" {
		w.more(lineAdvice, "advice: "+d.Advice)
	}
}

// dropHop is the index of the hop j.Drop tells about; -1: none.
func (j *Journey) dropHop() int {
	for i := len(j.Hops) - 1; i >= 0 && j.Drop != nil; i-- {
		d, ok := j.Hops[i].Detail.(*DropDetail)
		if ok && d.Normal == "" && d.Reason == j.Drop.Reason && d.At == j.Drop.At && j.Hops[i].Netns == j.Drop.Netns {
			return i
		}
	}
	return -1
}

func (j *Journey) placeWidth() int {
	width := placeWidth
	var b [256]byte
	for i := range j.Hops {
		h := &j.Hops[i]
		width = max(width, utf8.RuneCount(appendPlace(b[:0], cmp.Or(h.Pod, h.Netns), h.Dev)))
	}
	return width
}

// place is the hop's NETNS/DEV; the pod's name stands for the namespace's.
func (h *Hop) place() string {
	if h.Pod != "" {
		return place(h.Pod, h.Dev)
	}
	return place(h.Netns, h.Dev)
}

func (d *Drop) place() string {
	if d.Pod != "" {
		return place(d.Pod, d.Dev)
	}
	return place(d.Netns, d.Dev)
}

// hop says what happened.
func (w *TextWriter) hop(h *Hop) string {
	var s string
	switch d := h.Detail.(type) {
	case *LBDetail:
		s = d.text(h.Verdict)
		if d.Contradiction != "" {
			s += w.color(yellow, "; contradiction: "+d.Contradiction)
		}
	case *RouteDetail:
		s = d.text()
		if d.Contradiction != "" {
			s += w.color(yellow, "; contradiction: "+d.Contradiction)
		}
	case *QueueDetail:
		s = d.text(h.Verdict)
	case *SegmentDetail:
		s = fmt.Sprintf("cut into %d segments, which go on by themselves", d.Segments)
	case *IPVSDetail:
		s = d.text(h.Hook)
	case *NetfilterDetail:
		s = d.text(h.Verdict)
	case *NATDetail:
		return w.copyText(h, d.text()) // which says what the packet is now
	case *ConntrackDetail:
		s = d.text(h.Verdict)
	case *SocketDetail:
		s = d.text()
	case *AnswerDetail:
		s = d.text()
	case *BridgeDetail:
		s = d.text(h.Hook)
	case *CopyDetail:
		s = fmt.Sprintf("copied: #%d goes on as well", d.Copy)
	case *DropDetail:
		s = w.dropped(d.Reason, d.At)
		if d.Normal != "" {
			s = "freed: " + d.Normal
		}
	default:
		s = "enters"
		if h.Hook == "egress" {
			s = "leaves"
		}
	}
	switch p := h.Packet; {
	case p != nil && p.VXLAN != nil:
		s += fmt.Sprintf(", in VXLAN %d %s → %s", *p.VXLAN, p.Src, p.Dst)
	case p != nil:
		s += ", now " + p.ends()
	}
	return w.copyText(h, s)
}

// copyText marks what happens to a copy.
func (w *TextWriter) copyText(h *Hop, s string) string {
	if h.Trail != 0 {
		s = w.color(dim, fmt.Sprintf("(copy #%d) ", h.Trail)) + s
	}
	return s
}

func (d *LBDetail) text(verdict string) string {
	if d.Flow == "" {
		return "balancer: " + cmp.Or(d.Why, "no flow matches") + ", " + verdict
	}
	s := "balancer: flow " + d.Flow
	if d.Hash != nil && d.Index != nil {
		s += fmt.Sprintf(", hash %d → lookup[%d]", *d.Hash, *d.Index)
	}
	if d.Target != nil {
		s += fmt.Sprintf(" → target %d", *d.Target)
	}
	s += ", " + verdict
	if d.Why != "" {
		s += " (" + d.Why + ")"
	}
	return s
}

func (d *RouteDetail) text() string {
	var b strings.Builder
	b.WriteString("route: " + strings.Join(d.Passed, "; "))
	if len(d.Passed) > 0 && d.Type == "none" {
		return b.String()
	}
	if len(d.Passed) > 0 {
		b.WriteString("; ")
	}
	if d.Rule != nil {
		fmt.Fprintf(&b, "rule %d", *d.Rule)
		if d.From.IsValid() {
			b.WriteString(" from " + prefixText(d.From))
		}
		if d.To.IsValid() {
			b.WriteString(" to " + prefixText(d.To))
		}
		if d.FwMark != "" {
			b.WriteString(" fwmark " + d.FwMark)
		}
		if d.IIF != "" {
			b.WriteString(" iif " + d.IIF)
		}
		if d.Table != 0 {
			b.WriteString(" → table " + tableText(d.Table))
		}
		b.WriteString(" → ")
	}
	switch {
	case d.Type == "none":
		b.WriteString("no route")
	case d.Type != "":
		b.WriteString(d.Type)
	case len(d.Nexthops) > 0:
		b.WriteString("one of " + strings.Join(d.Nexthops, ", "))
	default:
		b.WriteString(Nexthop{Via: d.Nexthop, Dev: d.Dev}.text())
	}
	if d.Uncertain {
		b.WriteString(" (not sure: there are rules waymark cannot evaluate)")
	}
	return b.String()
}

// markText is the mark where it changed.
func (h *Hop) markText() string {
	switch {
	case h.Mark == nil:
		return ""
	case h.markWas != nil && h.markHow != "":
		return "mark " + markText(*h.markWas) + " → " + markText(*h.Mark) + ", " + h.markHow
	case h.markWas != nil:
		return "mark " + markText(*h.markWas) + " → " + markText(*h.Mark)
	case h.markNew:
		return "mark " + markText(*h.Mark)
	}
	return ""
}

func markText(m uint32) string {
	if m == 0 {
		return "0"
	}
	return "0x" + strconv.FormatUint(uint64(m), 16) + " (" + strconv.FormatUint(uint64(m), 10) + ")"
}

// text is the packet's headline.
func (p *Packet) text() string {
	s := p.Proto
	if p.Src.IsValid() || p.Dst.IsValid() {
		s += " " + p.ends()
	}
	switch {
	case p.TCPFlags != "":
		s += " " + p.TCPFlags
	case p.ICMPType != nil:
		s += " " + icmpText(p)
	}
	if p.FragOff != 0 || p.MoreFrag {
		s += fmt.Sprintf(" fragment %d at %d", p.IPID, p.FragOff)
		if p.MoreFrag {
			s += "+"
		}
	}
	if p.VLAN != 0 {
		s += fmt.Sprintf(" vlan %d", p.VLAN)
	}
	if p.VXLAN != nil {
		s += fmt.Sprintf(" vxlan %d", *p.VXLAN)
	}
	s += " len " + strconv.FormatInt(int64(p.Len), 10)
	if p.Inner != nil {
		s += ", about " + p.Inner.Proto + " " + p.Inner.ends()
	}
	return s
}

func (p *Packet) ends() string {
	return endpoint(p.Src, p.SPort) + " → " + endpoint(p.Dst, p.DPort)
}

// icmpText names the common types (RFC 792, RFC 1191, RFC 4443).
func icmpText(p *Packet) string {
	var code uint8
	if p.ICMPCode != nil {
		code = *p.ICMPCode
	}
	name := icmpNames[icmpKey{p.Proto, *p.ICMPType}]
	switch {
	case p.Proto == "icmp" && *p.ICMPType == 3 && code == 4:
		name = "fragmentation needed"
	case name == "":
		return fmt.Sprintf("type %d code %d", *p.ICMPType, code)
	}
	if p.ICMPID != nil && p.ICMPSeq != nil {
		return fmt.Sprintf("%s id %d seq %d", name, *p.ICMPID, *p.ICMPSeq)
	}
	return name
}

type icmpKey struct {
	proto string
	typ   uint8
}

var icmpNames = map[icmpKey]string{
	{"icmp", 0}: "echo reply", {"icmp", 3}: "unreachable", {"icmp", 5}: "redirect", {"icmp", 8}: "echo request", {"icmp", 11}: "time exceeded",
	{"icmp6", 1}: "unreachable", {"icmp6", 2}: "packet too big", {"icmp6", 3}: "time exceeded", {"icmp6", 128}: "echo request", {"icmp6", 129}: "echo reply",
	{"icmp6", 133}: "router solicitation", {"icmp6", 134}: "router advertisement", {"icmp6", 135}: "neighbour solicitation", {"icmp6", 136}: "neighbour advertisement",
}

// Unanswered implements Writer. One packet was just told of.
func (w *TextWriter) Unanswered(u *Unanswered) error {
	if u.Count == 1 && u.Until == 0 {
		return nil
	}
	w.printf("%s %s to %s %s %s in %s, from %s to %s", grouped(u.Count), plural(int(min(u.Count, 2)), "packet"),
		u.Proto, endpoint(u.Dst, u.DPort), w.color(red, "not answered"), w.color(bold, u.Place), u.Since.clock(), u.Last.clock())
	if u.Broken != 0 {
		w.printf(", broken since %s", u.Broken.clock())
	}
	if u.Until != 0 {
		w.printf(", mended by %s", u.Until.clock())
	}
	w.printf("  because %s\n", u.Because)
	return w.flush()
}

// Status implements Writer.
func (w *TextWriter) Status(s *Status) error {
	w.printf("%s\n", s.text())
	return w.flush()
}

func (s *Status) text() string {
	t := fmt.Sprintf("%s %d records, %d lost, %d untracked, %d open, %d evicted, %d journeys", s.Time.clock(), s.Records, s.Lost, s.Untracked, s.Tracked, s.Evicted, s.Journeys)
	if s.Normal > 0 {
		t += fmt.Sprintf(", %d normal", s.Normal)
	}
	if s.CostPct > 0 {
		t += fmt.Sprintf(", %.2f%% CPU", s.CostPct)
	}
	if s.Budget > 0 {
		t += s.budgetText()
	}
	return t
}

// clock is the time of day in UTC, µs: the same wherever a recording is read.
func (t WallTime) clock() string { return time.Unix(0, int64(t)).UTC().Format("15:04:05.000000") }

// micros is 12345 ns as "12.3µs".
func micros(ns uint64) string { return string(appendMicros(nil, ns)) }

func appendMicros(b []byte, ns uint64) []byte {
	b = append(strconv.AppendUint(b, ns/1000, 10), '.', '0'+byte(ns%1000/100))
	return append(b, "µs"...)
}
