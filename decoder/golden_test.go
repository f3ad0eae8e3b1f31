// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	. "waymark/decoder"
)

var update = flag.Bool("update", false, "write the goldens anew")

// goldens are in the repository's one place for fixed inputs and outputs.
const goldens = "../testdata/decoder"

// golden compares the journeys, printed as text and as JSON, with the files.
func golden(t *testing.T, name string, js []*Journey) {
	t.Helper()
	var text, json bytes.Buffer
	tw, jw := NewTextWriter(&text, TextOptions{}), NewJSONWriter(&json)
	for _, j := range js {
		if err := tw.Journey(j); err != nil {
			t.Fatal(err)
		}
		if err := jw.Journey(j); err != nil {
			t.Fatal(err)
		}
	}
	goldenBytes(t, name+".txt", text.Bytes())
	goldenBytes(t, name+".json", json.Bytes())
}

func goldenBytes(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join(goldens, name)
	if *update {
		if err := os.MkdirAll(goldens, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; `go test ./decoder -update` writes it", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs\ngot:\n%s\nwant:\n%s", name, got, want)
	}
}
