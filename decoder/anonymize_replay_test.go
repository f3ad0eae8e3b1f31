// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"waymark/bpf"
	. "waymark/decoder"
)

// allScenes are the streams of all scenes.
func allScenes(t *testing.T) map[string]*stream {
	streams := map[string]*stream{}
	for _, sc := range slices.Concat(scenes(), natScenes(), bridgeScenes(), vxlanScenes(), []scene{{name: "ipvs", packets: ipvsPackets}}) {
		w := newTrench()
		if sc.world != nil {
			sc.world(w)
		}
		s := newStream(t, w)
		sc.packets(s)
		s.contexts(&Context{Time: base + 1e9, Clock: &Clock{}})
		streams[sc.name] = s
	}
	return streams
}

// printedOf is what a sink that is fed by give prints as text.
func printedOf(t *testing.T, give func(Sink)) string {
	var out bytes.Buffer
	text := NewTextWriter(&out, TextOptions{})
	st := NewStitcher(Options{LB: trenchLB{}, Emit: func(j *Journey) { must(t, text.Journey(j)) }})
	give(st)
	st.Flush()
	return out.String()
}

// redactedFile is the recording of a stream behind a Redactor.
func redactedFile(t *testing.T, s *stream, p Payload, a *Anonymizer) []byte {
	var out bytes.Buffer
	rec := NewRecorder(&out, RecorderOptions{NoBytes: p == PayloadOff})
	r, err := NewRedactor(rec, p, a)
	must(t, err)
	s.feed(r)
	must(t, rec.Close())
	return out.Bytes()
}

// A balancer's hash is of the addresses, and so is what it would have chosen.
var (
	hashText   = regexp.MustCompile(`, hash \d+ → lookup\[\d+\]`)
	chosenText = regexp.MustCompile(`( → target \d+)?, accept; contradiction: by its state [^,]*,`)
)

// TestRedactedReplay: a recording of headers tells what the packets told, one with
// other addresses the same with these, and no address is left in it.
func TestRedactedReplay(t *testing.T) {
	a, err := NewAnonymizer([]byte("an anonymizer's key in the tests"))
	must(t, err)
	for name, s := range allScenes(t) {
		t.Run(name, func(t *testing.T) {
			want := printedOf(t, s.feed)
			replayed := func(file []byte) string {
				return printedOf(t, func(sink Sink) {
					_, err := Replay(bytes.NewReader(file), sink)
					must(t, err)
				})
			}
			if got := replayed(redactedFile(t, s, PayloadHeaders, nil)); got != want {
				t.Errorf("headers alone tell\n%s\nthe packets told\n%s", got, want)
			}
			file := redactedFile(t, s, PayloadHeaders, a)
			want = a.Text(hashText.ReplaceAllString(want, ""))
			want = chosenText.ReplaceAllString(want, ",")
			if got := chosenText.ReplaceAllString(replayed(file), ","); got != strings.ReplaceAll(want, "the packet had", "the packet went on with mark") {
				t.Errorf("other addresses tell\n%s\nwant\n%s", got, want)
			}
			checkNoAddress(t, s, file, a)
		})
	}
}

var addressWords = regexp.MustCompile(`[0-9A-Fa-f:.]+`)

// checkNoAddress looks for every address of a stream in a file, as text and as
// bytes.
func checkNoAddress(t *testing.T, s *stream, file []byte, a *Anonymizer) {
	t.Helper()
	addrs, macs := map[netip.Addr]bool{}, map[string]bool{}
	for _, item := range s.items {
		switch item := item.(type) {
		case []byte:
			var r bpf.Record
			_, _ = r.Decode(item)
			addrs[r.SrcAddr()], addrs[r.DstAddr()] = true, true
		case *Context:
			text, _ := json.Marshal(item)
			for _, word := range addressWords.FindAllString(string(text), -1) {
				if addr, err := netip.ParseAddr(word); err == nil {
					addrs[addr] = true
				}
				if _, err := net.ParseMAC(word); err == nil {
					macs[word] = true
				}
			}
		}
	}
	found := 0
	for addr := range addrs {
		if !addr.IsValid() || a.Addr(addr) == addr {
			continue
		}
		found++
		for what, b := range map[string][]byte{"text": []byte(addr.String()), "bytes": addr.AsSlice()} {
			if at := bytes.Index(file, b); at >= 0 && !partOfMore(file, at, len(b), what == "text") {
				t.Errorf("%s is left as %s at %d: %q", addr, what, at, file[max(at-16, 0):min(at+24, len(file))])
			}
		}
	}
	for m := range macs {
		b, _ := net.ParseMAC(m)
		if bytes.Contains(file, b) || bytes.Contains(bytes.ToLower(file), []byte(strings.ToLower(m))) {
			t.Errorf("%s is left", m)
		}
	}
	if found == 0 || len(macs) == 0 {
		t.Error("the stream has no addresses")
	}
}

// partOfMore tells whether what looks like an address is a part of a longer one:
// 10.0.0.1 is in 110.0.0.17.
func partOfMore(file []byte, at, n int, text bool) bool {
	isWord := func(i int) bool { return i >= 0 && i < len(file) && addressWords.Match(file[i:i+1]) }
	return text && (isWord(at-1) || isWord(at+n))
}
