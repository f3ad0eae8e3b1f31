// SPDX-License-Identifier: Apache-2.0

// A recording as one page to look at. It needs no network: style, script and
// data are in it, and its policy forbids anything else.

package decoder

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed html/page.html
var pageFrame string

//go:embed html/page.css
var pageStyle string

//go:embed html/*.js
var pageScripts embed.FS

// pageScript is the page's one script: its files, in the order they need each other.
var pageScript = sync.OnceValue(func() string {
	script := "\n\"use strict\";\n"
	for _, name := range []string{"world", "flows", "list", "journey", "map", "way", "begin"} {
		text, _ := pageScripts.ReadFile("html/" + name + ".js") // they are part of the binary
		script += string(text)
	}
	return script
})

// pageJourneys is how many journeys a page has at most: a browser must hold it.
const pageJourneys = 50_000

// HTMLOptions shape a page.
type HTMLOptions struct {
	Title    string // what the page is about: the recording's name
	Journeys int    // at most; 0: as many as a browser can hold
}

// HTMLWriter writes a page of journeys: their world as a picture, each one's way
// through it, and what happened there in the words of TextWriter. It is a Sink
// for what the contexts tell of devices; journeys come from a Stitcher.
// Nothing is written before the first journey or Close.
type HTMLWriter struct {
	w       *bufio.Writer
	opt     HTMLOptions
	text    *TextWriter
	buf     []byte
	begun   bool
	written int
	left    uint64 // journeys beyond the limit

	strings  map[string]int // numbers of strings that journeys refer to
	nodes    map[string]*pageNode
	order    []*pageNode // as they came
	source   *pageSource // of the contexts that come to the writer itself
	boxes    map[pageBoxID]int
	boxNames []pageBoxID
	notes    []string
}

// pageNode is what contexts said about one node.
type pageNode struct {
	session *Session
	names   map[uint32]string // of namespaces and pods, by inode
	devices map[pageDeviceID]*Device
}

type (
	pageDeviceID struct{ netns, index uint32 }
	pageBoxID    struct{ node, name string }
)

// pageWorld is what the page's journeys refer to, and what it says of the
// recording.
type pageWorld struct {
	Title   string    `json:"title"`
	Nodes   []string  `json:"nodes"`
	Kernels []string  `json:"kernels"`
	Version string    `json:"version,omitempty"`
	Filter  []string  `json:"filter,omitempty"`
	Notes   []string  `json:"notes"`
	Strings []string  `json:"strings"`
	Boxes   []pageBox `json:"boxes"`
}

// pageBox is a namespace or pod.
type pageBox struct {
	Name    string       `json:"name"`
	Node    string       `json:"node,omitempty"`
	Devices []pageDevice `json:"devices"`
}

type pageDevice struct {
	Name  string   `json:"name"`
	Kind  string   `json:"kind,omitempty"`
	MAC   string   `json:"mac,omitempty"`
	MTU   int      `json:"mtu,omitempty"`
	Addrs []string `json:"addrs,omitempty"`
}

// NewHTMLWriter returns a writer of a page to w.
func NewHTMLWriter(w io.Writer, o HTMLOptions) *HTMLWriter {
	if o.Journeys == 0 {
		o.Journeys = pageJourneys
	}
	return &HTMLWriter{
		w: bufio.NewWriterSize(w, 64<<10), opt: o, text: NewTextWriter(io.Discard, TextOptions{}),
		strings: map[string]int{"": 0}, nodes: map[string]*pageNode{}, boxes: map[pageBoxID]int{},
	}
}

// Record implements Sink.
func (p *HTMLWriter) Record([]byte) error { return nil }

// Context implements Sink, for the contexts of the page's only recording.
func (p *HTMLWriter) Context(c *Context) error {
	if p.source == nil {
		p.source = &pageSource{p: p}
	}
	return p.source.Context(c)
}

// Source is a Sink for the contexts of one recording of several.
func (p *HTMLWriter) Source() Sink { return &pageSource{p: p} }

// pageSource knows which node the contexts of a recording are about.
type pageSource struct {
	p   *HTMLWriter
	now *pageNode
}

// Record implements Sink.
func (s *pageSource) Record([]byte) error { return nil }

// Context implements Sink.
func (s *pageSource) Context(c *Context) error {
	if c.Session != nil {
		s.now = s.p.node(c.Session.Node)
		if s.now.session == nil {
			s.now.session = c.Session
		}
		return nil
	}
	if s.now == nil {
		s.now = s.p.node("")
	}
	switch n := s.now; {
	case c.Namespace != nil && len(n.names) < maxNamespaces:
		n.names[c.Namespace.Inode] = cmp.Or(c.Namespace.Pod, c.Namespace.Name)
	case c.Device != nil && !c.Device.Removed && len(n.devices) < maxDevices:
		n.devices[pageDeviceID{c.Device.Netns, c.Device.Index}] = c.Device
	}
	return nil
}

func (p *HTMLWriter) node(name string) *pageNode {
	n := p.nodes[name]
	if n == nil {
		n = &pageNode{names: map[uint32]string{}, devices: map[pageDeviceID]*Device{}}
		p.nodes[name] = n
		p.order = append(p.order, n)
	}
	return n
}

// Note adds a sentence about the whole recording to the page.
func (p *HTMLWriter) Note(s string) { p.notes = append(p.notes, s) }

// Journey adds one to the page. Those beyond what a browser can hold are counted
// and left out, which the page says.
func (p *HTMLWriter) Journey(j *Journey) error {
	if p.written >= p.opt.Journeys {
		p.left++
		return nil
	}
	p.begin()
	b := p.buf[:0]
	if p.written > 0 {
		b = append(b, ",\n"...)
	}
	p.written++
	b = append(b, `{"i":`...)
	b = appendJSON(b, j.ID)
	b = append(b, `,"c":`...)
	b = appendJSON(b, j.Start.clock())
	b = p.field(b, "f", j.Flow)
	b = p.field(b, "p", j.Packet.text())
	b = p.field(b, "o", string(j.Outcome))
	if j.Drop != nil {
		b = p.field(b, "x", j.Drop.Reason)
	}
	if j.Reply {
		b = append(b, `,"r":1`...)
	}
	if !j.Complete {
		b = append(b, `,"n":1`...)
	}
	b = append(b, `,"d":`...)
	b = strconv.AppendUint(b, j.DurationNs, 10)
	b = append(b, `,"l":[`...)
	for i, l := range p.text.journeyLines(j) {
		if i > 0 {
			b = append(b, ',')
		}
		b = p.line(b, &l, j.Node)
	}
	p.buf = append(b, "]}"...)
	_, err := p.w.Write(p.buf)
	return err
}

// line is [kind, what, ns, box + 1, device, mark, trail], without zeros at the end.
func (p *HTMLWriter) line(b []byte, l *textLine, node string) []byte {
	box := 0
	if l.box != "" {
		box = p.box(pageBoxID{node, l.box}) + 1
	}
	v := [...]uint64{uint64(p.ref(l.kind)), uint64(p.ref(l.what)), l.t, uint64(box), uint64(p.ref(l.dev)), uint64(p.ref(l.mark)), l.trail}
	n := len(v)
	for v[n-1] == 0 {
		n--
	}
	b = append(b, '[')
	for i, x := range v[:n] {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, x, 10)
	}
	return append(b, ']')
}

func (p *HTMLWriter) field(b []byte, name, s string) []byte {
	b = append(b, `,"`+name+`":`...)
	return strconv.AppendInt(b, int64(p.ref(s)), 10)
}

// ref is the number of a string.
func (p *HTMLWriter) ref(s string) int {
	n, ok := p.strings[s]
	if !ok {
		n = len(p.strings)
		p.strings[s] = n
	}
	return n
}

func (p *HTMLWriter) box(id pageBoxID) int {
	n, ok := p.boxes[id]
	if !ok {
		n = len(p.boxes)
		p.boxes[id] = n
		p.boxNames = append(p.boxNames, id)
	}
	return n
}

// appendJSON appends s as JSON that can stand inside a script element: <, > and &
// are escaped, which ends no element and begins no comment.
func appendJSON(b []byte, v any) []byte {
	text, _ := json.Marshal(v) // strings and structs of them: cannot fail
	return append(b, text...)
}

// Journeys is how many are on the page, and how many were left out.
func (p *HTMLWriter) Journeys() (shown int, left uint64) { return p.written, p.left }

// begin writes what comes before the journeys.
func (p *HTMLWriter) begin() {
	if p.begun {
		return
	}
	p.begun = true
	head, _ := pageParts()
	_, _ = p.w.WriteString(strings.Replace(head, "{title}", html.EscapeString(p.opt.Title), 1)) // the writer's first error stays
	_, _ = p.w.WriteString(`<script type="application/json" id="journeys">[`)
}

// Close writes the rest of the page. It does not close the underlying writer.
func (p *HTMLWriter) Close() error {
	p.begin()
	if p.left > 0 {
		p.Note(fmt.Sprintf("the first %d journeys are shown, %d more are left out: record or export fewer", p.written, p.left))
	}
	_, foot := pageParts()
	_, _ = p.w.WriteString("]</script>\n" + `<script type="application/json" id="world">`)
	_, _ = p.w.Write(appendJSON(nil, p.world()))
	_, _ = p.w.WriteString("</script>\n" + foot)
	return p.w.Flush()
}

func (p *HTMLWriter) world() *pageWorld {
	w := &pageWorld{Title: p.opt.Title, Notes: p.notes, Nodes: []string{}, Kernels: []string{}, Strings: make([]string, len(p.strings)), Boxes: make([]pageBox, len(p.boxNames))}
	if w.Notes == nil {
		w.Notes = []string{}
	}
	for s, n := range p.strings {
		w.Strings[n] = s
	}
	for i, id := range p.boxNames {
		w.Boxes[i] = pageBox{Name: id.name, Node: id.node, Devices: []pageDevice{}}
	}
	for _, n := range p.order {
		if n.session == nil {
			continue
		}
		w.Nodes = append(w.Nodes, n.session.Node)
		if !slices.Contains(w.Kernels, n.session.Kernel) {
			w.Kernels = append(w.Kernels, n.session.Kernel)
		}
		w.Version, w.Filter = n.session.Version, n.session.Filter
	}
	for name, n := range p.nodes {
		p.addDevices(w, name, n)
	}
	return w
}

// addDevices adds those of a node to its boxes, by their numbers, as `ip link` has them.
func (p *HTMLWriter) addDevices(w *pageWorld, node string, n *pageNode) {
	ids := make([]pageDeviceID, 0, len(n.devices))
	for id := range n.devices {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b pageDeviceID) int {
		return cmp.Or(cmp.Compare(a.netns, b.netns), cmp.Compare(a.index, b.index))
	})
	for _, id := range ids {
		box, ok := p.boxes[pageBoxID{node, n.names[id.netns]}]
		if !ok {
			continue
		}
		d := n.devices[id]
		pd := pageDevice{Name: d.Name, Kind: d.Kind, MAC: d.MAC, MTU: d.MTU}
		for _, a := range d.Addrs {
			pd.Addrs = append(pd.Addrs, a.String())
		}
		w.Boxes[box].Devices = append(w.Boxes[box].Devices, pd)
	}
}

// pageParts are what comes before and after the data. The policy names the
// style and the script by their hashes: nothing that a recording says can be
// either, and nothing is loaded.
var pageParts = sync.OnceValues(func() (head, foot string) {
	policy := "default-src 'none'; base-uri 'none'; form-action 'none'; style-src " + sourceHash(pageStyle) + "; script-src " + sourceHash(pageScript())
	frame := strings.NewReplacer("{policy}", policy, "{style}", pageStyle, "{script}", pageScript()).Replace(pageFrame)
	head, foot, _ = strings.Cut(frame, "{data}\n")
	return head, foot
})

// sourceHash names an inline element's content for a Content Security Policy
// (CSP level 3).
func sourceHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
