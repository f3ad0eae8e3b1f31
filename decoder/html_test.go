// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	. "waymark/decoder"
)

// pageData is what a page has for its script.
type pageData struct {
	journeys []struct {
		ID    string     `json:"i"`
		Clock string     `json:"c"`
		Flow  int        `json:"f"`
		Head  int        `json:"p"`
		L     [][]uint64 `json:"l"`
	}
	world struct {
		Title   string
		Notes   []string
		Strings []string
		Nodes   []string
		Boxes   []struct {
			Name    string
			Node    string
			Devices []struct {
				Name, Kind string
				Addrs      []string
			}
		}
	}
}

// readPage finds the data as a browser does: up to the first end of the element.
func readPage(t *testing.T, page string) *pageData {
	t.Helper()
	d := &pageData{}
	for id, into := range map[string]any{"journeys": &d.journeys, "world": &d.world} {
		_, rest, ok := strings.Cut(page, `<script type="application/json" id="`+id+`">`)
		text, _, end := strings.Cut(rest, "</script>")
		if !ok || !end {
			t.Fatalf("the page has no %s", id)
		}
		if err := json.Unmarshal([]byte(text), into); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
	}
	return d
}

// text is what TextWriter prints of the page's journeys.
func (d *pageData) text() string {
	var b strings.Builder
	for _, j := range d.journeys {
		fmt.Fprintf(&b, "%s %s  #%s\n", j.Clock, d.world.Strings[j.Head], j.ID)
		width := 30
		type line struct{ at, place, what, mark string }
		var lines []line
		for _, l := range j.L {
			l = append(l, make([]uint64, 7-len(l))...)
			var x line
			if l[3] > 0 {
				x.at = fmt.Sprintf("%d.%dµs", l[2]/1000, l[2]%1000/100)
				x.place = d.world.Boxes[l[3]-1].Name
				if dev := d.world.Strings[l[4]]; dev != "" {
					x.place += "/" + dev
				}
			}
			x.what = d.world.Strings[l[1]]
			if m := d.world.Strings[l[5]]; m != "" {
				x.mark = "   " + m
			}
			lines = append(lines, x)
			width = max(width, len([]rune(x.place)))
		}
		for _, x := range lines {
			fmt.Fprintf(&b, "%11s  %-*s  %s%s\n", x.at, width, x.place, x.what, x.mark)
		}
	}
	return b.String()
}

// pageOf makes the page of a stream, and what text says of it.
func pageOf(t *testing.T, s *stream, o HTMLOptions) (page, text string) {
	t.Helper()
	var html, plain bytes.Buffer
	p, tw := NewHTMLWriter(&html, o), NewTextWriter(&plain, TextOptions{})
	st := NewStitcher(Options{LB: trenchLB{}, Emit: func(j *Journey) {
		must(t, p.Journey(j))
		must(t, tw.Journey(j))
	}})
	s.feed(p)
	s.feed(st)
	st.Flush()
	must(t, p.Close())
	return html.String(), plain.String()
}

// TestHTMLSaysWhatTextSays: of every scene.
func TestHTMLSaysWhatTextSays(t *testing.T) {
	for _, sc := range slices.Concat(scenes(), natScenes(), bridgeScenes(), vxlanScenes()) {
		t.Run(sc.name, func(t *testing.T) {
			w := newTrench()
			if sc.world != nil {
				sc.world(w)
			}
			s := newStream(t, w)
			sc.packets(s)
			page, text := pageOf(t, s, HTMLOptions{Title: sc.name})
			d := readPage(t, page)
			if got := d.text(); got != text {
				t.Errorf("the page says\n%s\ntext says\n%s", got, text)
			}
		})
	}
}

func TestHTMLKnowsDevices(t *testing.T) {
	s := newStream(t, newTrench())
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
	page, _ := pageOf(t, s, HTMLOptions{Title: "x"})
	var got []string
	for _, b := range readPage(t, page).world.Boxes {
		for _, d := range b.Devices {
			got = append(got, b.Name+"/"+d.Name+" "+strings.Join(d.Addrs, ","))
		}
	}
	for _, want := range []string{"wm-meridio-gw/ext0 169.254.100.150/24,100:100::150/64", "wm-meridio-lb/load-balan-274a 172.16.1.2/24,fd00::ac10:102/120"} {
		if !slices.Contains(got, want) {
			t.Errorf("no device %q in %q", want, got)
		}
	}
}

// twoNodes is the page of two nodes' recordings.
func twoNodes(t *testing.T) string {
	t.Helper()
	var html bytes.Buffer
	p := NewHTMLWriter(&html, HTMLOptions{Title: "two nodes"})
	rs := of(recordingOf(t, "n1", 0, 2), recordingOf(t, "n2", 500_000, 2))
	for _, r := range rs {
		r.Contexts = p.Source()
	}
	for told := range Merge(rs) {
		must(t, p.Journey(told.Journey))
	}
	must(t, p.Close())
	return html.String()
}

// TestHTMLOfTwoNodes: namespaces of the same name are different boxes, each with
// its node's devices.
func TestHTMLOfTwoNodes(t *testing.T) {
	d := readPage(t, twoNodes(t))
	got := map[string]int{}
	for _, b := range d.world.Boxes {
		got[b.Node+" "+b.Name] += len(b.Devices)
	}
	if want := map[string]int{"n1 wm-meridio-gw": 2, "n1 wm-meridio-lb": 2, "n2 wm-meridio-gw": 2, "n2 wm-meridio-lb": 2}; !maps.Equal(got, want) {
		t.Errorf("boxes and how many devices they have: %v", got)
	}
	if !slices.Equal(d.world.Nodes, []string{"n1", "n2"}) || len(d.journeys) != 4 {
		t.Errorf("nodes %q, %d journeys", d.world.Nodes, len(d.journeys))
	}
}

// evil are names that a recording may have, and a page must not obey.
var evil = []string{
	`</script><script>document.title='obeyed'</script>`,
	`<!--<script>`,
	`<img src=x onerror="document.title='obeyed'">`,
	`"></i>&lt;b&gt;'` + "\u2028\xff",
	`{data}{title}{script}`,
}

// evilStream has names like that wherever a stream has names.
func evilStream(t *testing.T) *stream {
	w := newTrench()
	w.names[0].Namespace.Name, w.names[1].Namespace.Name, w.names[3].Namespace.Pod = evil[0], evil[1], evil[2]
	for i, d := range w.devices {
		d.Device.Name = fmt.Sprint(evil[i%len(evil)], i)
		d.Device.Kind = evil[0]
	}
	s := &stream{t: t}
	s.contexts(&Context{Session: &Session{Version: evil[0], Format: RecordFormat, Node: evil[0], Kernel: evil[2], Filter: evil}})
	s.contexts(w.contexts()...)
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
	s.tcp(2, 200_000, vip4, 5000, client4, 40000, synAck).reply()
	return s
}

// tags counts what a browser's parser looks for.
func tags(page string) map[string]int {
	n := map[string]int{}
	for _, tag := range []string{"<script", "</script", "<!--", "-->", "<img", "<style", "</style", "<title", "</title"} {
		n[tag] = strings.Count(strings.ToLower(page), tag)
	}
	return n
}

func TestHTMLObeysNoName(t *testing.T) {
	var plain bytes.Buffer
	must(t, NewHTMLWriter(&plain, HTMLOptions{}).Close())
	page, text := pageOf(t, evilStream(t), HTMLOptions{Title: strings.Join(evil, " ")})
	if got, want := fmt.Sprint(tags(page)), fmt.Sprint(tags(plain.String())); got != want {
		t.Errorf("the page has %s, an empty one %s", got, want)
	}
	if !strings.Contains(text, evil[0]) {
		t.Fatal("the names are not in the text: this tests nothing")
	}
	if got := readPage(t, page).text(); strings.ToValidUTF8(got, "?") != strings.ToValidUTF8(text, "\ufffd") {
		t.Errorf("the page says\n%s\ntext says\n%s", got, text)
	}
}

// TestHTMLNeedsNothing: its policy allows what is in it and nothing else.
func TestHTMLNeedsNothing(t *testing.T) {
	page, _ := pageOf(t, newStream(t, newTrench()), HTMLOptions{Title: "nothing"})
	for element, directive := range map[string]string{"style": "style-src", "script": "script-src"} {
		_, content, _ := strings.Cut(page, "<"+element+">")
		content, _, _ = strings.Cut(content, "</"+element+">")
		sum := sha256.Sum256([]byte(content))
		if want := directive + " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(page, want) {
			t.Errorf("the policy does not say %s", want)
		}
	}
	if !strings.Contains(page, "default-src 'none'") {
		t.Error("the policy allows to load things")
	}
	rest := strings.ReplaceAll(page, "http://www.w3.org/2000/svg", "")
	for _, s := range []string{"http:", "https:", "src=", "@import", "<link", "fetch(", "innerHTML"} {
		if strings.Contains(rest, s) {
			t.Errorf("the page has %s", s)
		}
	}
}

func TestHTMLLeavesOut(t *testing.T) {
	s := newStream(t, newTrench())
	for i := range uint64(5) {
		s.tcp(i+1, i*1000, client4, uint16(40000+i), vip4, 5000, syn).request()
	}
	page, _ := pageOf(t, s, HTMLOptions{Journeys: 3})
	d := readPage(t, page)
	if len(d.journeys) != 3 || len(d.world.Notes) != 1 || !strings.Contains(d.world.Notes[0], "2 more are left out") {
		t.Errorf("%d journeys, notes %q", len(d.journeys), d.world.Notes)
	}
}

// failingPage is a full disk.
type failingPage struct{}

func (failingPage) Write([]byte) (int, error) { return 0, fmt.Errorf("no space left") }

func TestHTMLTellsOfAFullDisk(t *testing.T) {
	if err := NewHTMLWriter(failingPage{}, HTMLOptions{}).Close(); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Error(err)
	}
}
