// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "waymark/decoder"
)

// TestStoredJourneys: recordings that an older waymark made tell today what
// they told then. The recordings are never written anew: a change of the format
// adds some, named after it. What is printed of them may become better: -update
// writes that.
func TestStoredJourneys(t *testing.T) {
	files, err := filepath.Glob("testdata/recording/format*-*.pcapng")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		text := NewTextWriter(&out, TextOptions{})
		r := &Recording{In: bytes.NewReader(content), Options: Options{LB: trenchLB{}}}
		for told := range Merge([]*Recording{r}) {
			must(t, text.Journey(told.Journey))
		}
		if r.Err != nil || !r.Result.Ended || r.Node != "n1" {
			t.Errorf("%s: of node %q, %+v, %v", file, r.Node, r.Result, r.Err)
		}
		expect := strings.TrimSuffix(file, ".pcapng") + ".txt"
		if *update {
			must(t, os.WriteFile(expect, out.Bytes(), 0o644))
			continue
		}
		want, err := os.ReadFile(expect)
		must(t, err)
		if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%s tells\n%s\nand told\n%s", file, out.Bytes(), want)
		}
	}
}
