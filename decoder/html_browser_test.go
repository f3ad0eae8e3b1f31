// SPDX-License-Identifier: Apache-2.0

// The page in a real browser, where there is one.

package decoder_test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	. "waymark/decoder"
)

// drawn is the part of the page that its script made, and after how many
// milliseconds it was done.
func drawn(t *testing.T, dom string) (body string, ms int) {
	t.Helper()
	m := regexp.MustCompile(`data-drawn="(\d+)"`).FindStringSubmatch(dom)
	if m == nil {
		t.Fatalf("the page's script did not come to its end:\n%.3000s", dom)
	}
	ms, _ = strconv.Atoi(m[1])
	_, body, _ = strings.Cut(dom, "<body>")
	body, _, _ = strings.Cut(body, "<noscript>")
	return body, ms
}

// screens are a small notebook's and a telephone's, in CSS pixels.
var screens = [][2]int{{1280, 720}, {390, 844}}

// onFirstScreen tells of elements that are not wholly there without scrolling.
func (b *browser) onFirstScreen(selectors ...string) {
	b.t.Helper()
	for _, s := range selectors {
		var out string
		b.eval(`(() => { const e = document.querySelector("`+s+`"); if (!e) return "it is not there"; const r = e.getBoundingClientRect();
			return r.width && r.top >= 0 && r.left >= 0 && r.bottom <= innerHeight && r.right <= innerWidth ? "" : [r.left, r.top, r.right, r.bottom].join(" ") + " of " + innerWidth + " " + innerHeight; })()`, &out)
		if out != "" {
			b.t.Errorf("%s is not on the first screen: %s", s, out)
		}
	}
}

// TestHTMLShowsWhereAPacketDied: in the strict rp_filter's lab, at one look.
func TestHTMLShowsWhereAPacketDied(t *testing.T) {
	w := newTrench()
	rpFilter(w)
	s := newStream(t, w)
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
	s.tcp(2, 200_000, vip4, 5000, client4, 40000, synAck).reply()
	s.tcp(3, 900_000, client4, 40001, vip4, 5000, syn).requestToLB().mark(markT1).drop(nsLB, nsm1, 40*us, rRPFilter, atRcvFinish)
	page, _ := pageOf(t, s, HTMLOptions{Title: "three packets"})
	b := newBrowser(t)
	for _, size := range screens {
		b.open(page, "", size[0], size[1])
		body, _ := drawn(t, b.dom())
		for _, want := range []string{
			`<section id="end" aria-live="polite" class="dropped">`, "IP_RPFILTER at ip_rcv_finish_core", "<b>because</b> rp_filter is 1 at wm-meridio-lb/nsm-1", "<b>advice:</b> set net.ipv4.conf.all.rp_filter",
			`class="stop dropped"`, `class="box on dead"`, ">IP_RPFILTER</text>", `<li class="k-end end dropped"`,
			"dropped 1", "delivered 2", ">three packets<",
		} {
			if !strings.Contains(body, want) {
				t.Errorf("%d: the page does not show %s", size, want)
			}
		}
		b.onFirstScreen("#end .what", "#end .because", "#end .advice", "#map .stop.dropped", "#map .box.dead")
		// The packet that is asked for by its name.
		b.open(page, "#"+pageID(t, page, 0), size[0], size[1])
		body, _ = drawn(t, b.dom())
		for _, want := range []string{`class="stop delivered"`, `aria-label="the way of the packet: wm-meridio-gw/ext0, wm-meridio-lb/nsm-1, `, "mark 0 → 0x13b8 (5048)"} {
			if !strings.Contains(body, want) {
				t.Errorf("%d: the first packet's page does not show %s", size, want)
			}
		}
	}
}

func pageID(t *testing.T, page string, n int) string { return readPage(t, page).journeys[n].ID }

// TestHTMLFramesNodes: a frame for each, at both widths.
func TestHTMLFramesNodes(t *testing.T) {
	page := twoNodes(t)
	b := newBrowser(t)
	for _, size := range screens {
		b.open(page, "", size[0], size[1])
		body, _ := drawn(t, b.dom())
		for _, want := range []string{`<title>node n1</title>`, `<title>node n2</title>`, "nodes n1, n2"} {
			if strings.Count(body, want) != 1 {
				t.Errorf("%d: the page does not show %s once", size, want)
			}
		}
	}
}

func TestHTMLObeysNoNameInABrowser(t *testing.T) {
	page, _ := pageOf(t, evilStream(t), HTMLOptions{Title: evil[0]})
	b := newBrowser(t)
	b.open(page, "", 1400, 900)
	dom := b.dom()
	body, _ := drawn(t, dom)
	if strings.Contains(dom, "<title>obeyed") || strings.Contains(body, "<img") || strings.Contains(body, "<script>") {
		t.Error("a name of the recording became part of the page")
	}
	if !strings.Contains(body, "&lt;/script&gt;&lt;script&gt;") {
		t.Error("the name is not shown")
	}
}

// TestHTMLOfTenThousand: the list makes only what can be seen.
func TestHTMLOfTenThousand(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: 10,000 journeys take seconds")
	}
	s := newStream(t, newTrench())
	const n = 10_000
	for i := range uint64(n / 2) {
		at, port := i*400_000, uint16(20000+i)
		p := s.tcp(2*i+1, at, client4, port, vip4, 5000, syn).requestToLB()
		if i%50 == 49 {
			p.drop(nsLB, nsm1, 20*us, rNotSpecified, atNFQueue)
		} else {
			p.balanced().toTarget().consumed(us, atConsume)
		}
		s.tcp(2*i+2, at+200_000, vip4, 5000, client4, port, synAck).reply().consumed(us, atConsume)
	}
	page, _ := pageOf(t, s, HTMLOptions{Title: "ten thousand"})
	d := readPage(t, page)
	if len(d.journeys) != n {
		t.Fatalf("%d journeys on the page, want %d", len(d.journeys), n)
	}
	if len(page) > 8<<20 {
		t.Errorf("the page has %d bytes", len(page))
	}
	if file := os.Getenv("WAYMARK_PAGE"); file != "" { // to look at
		must(t, os.WriteFile(file, []byte(page), 0o644))
	}
	b := newBrowser(t)
	b.open(page, "", 1400, 900)
	body, ms := drawn(t, b.dom())
	rows := strings.Count(body, `role="option"`)
	t.Logf("%d journeys: %d KB, drawn after %d ms with %d rows of the list", n, len(page)>>10, ms, rows)
	if rows == 0 || rows > 60 || !strings.Contains(body, `aria-setsize="5002"`) {
		t.Errorf("%d rows of the list are made", rows)
	}
	if !strings.Contains(body, "10,000 packets in 5,000 flows") {
		t.Error("the head does not say how many there are")
	}
}
