// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// numbered are n lines.
func numbered(from, n int) string {
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, "line %d\n", from+i)
	}
	return s.String()
}

func TestExpectation(t *testing.T) {
	long := numbered(1, 1000)
	for _, tt := range []struct {
		name      string
		json      bool
		want, got string
		diff      string // empty: they are the same
		line      int
	}{
		{"same", false, long, long, "", 0},
		{"both empty", false, "", "", "", 0},
		{
			"one line", false, long, strings.Replace(long, "line 500\n", "another\n", 1),
			"--- FILE\n+++ replay\n@@ -497,7 +497,7 @@\n line 497\n line 498\n line 499\n-line 500\n+another\n line 501\n line 502\n line 503\n", 500,
		},
		{
			"two places", false, numbered(1, 20), strings.NewReplacer("line 1\n", "", "line 20\n", "line 20\nline 21\n").Replace(numbered(1, 20)),
			"--- FILE\n+++ replay\n@@ -1,4 +1,3 @@\n-line 1\n line 2\n line 3\n line 4\n@@ -18,3 +17,4 @@\n line 18\n line 19\n line 20\n+line 21\n", 1,
		},
		{"less", false, numbered(1, 5), numbered(1, 4), "--- FILE\n+++ replay\n@@ -2,4 +2,3 @@\n line 2\n line 3\n line 4\n-line 5\n", 5},
		{"more", false, numbered(1, 4), numbered(1, 5), "--- FILE\n+++ replay\n@@ -2,3 +2,4 @@\n line 2\n line 3\n line 4\n+line 5\n", 5},
		{"nothing came", false, "a\n", "", "--- FILE\n+++ replay\n@@ -1,1 +0,0 @@\n-a\n", 1},
		{"no newline at the end", false, "a\nb", "a\nb\n", "--- FILE\n+++ replay\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n", 2},
		{
			"a field", true, `{"a":1}` + "\n" + `{"b":1,"c":{"d":2,"e":3}}` + "\n", `{"a":1}` + "\n" + `{"b":1,"c":{"d":2,"e":4}}` + "\n",
			"--- FILE\n+++ replay\n@@ fields, one a line @@\n   \"b\": 1,\n   \"c\": {\n     \"d\": 2,\n-    \"e\": 3\n+    \"e\": 4\n   }\n }\n", 2,
		},
		{"no JSON", true, "{\n", "}\n", "--- FILE\n+++ replay\n@@ fields, one a line @@\n-{\n+}\n", 1},
	} {
		for _, chunk := range []int{1, 7, 1 << 20} { // that are written at a time
			diff, err := expected(t, tt.want, tt.got, tt.json, chunk)
			if diff != tt.diff || (err == nil) != (tt.diff == "") {
				t.Errorf("%s: %v\ngot\n%s\nwant\n%s", tt.name, err, diff, tt.diff)
			}
			if err != nil && !strings.HasSuffix(err.Error(), fmt.Sprintf("first in line %d", tt.line)) {
				t.Errorf("%s: %v, want line %d", tt.name, err, tt.line)
			}
		}
	}
}

// expected compares got, written in chunks, with a file.
func expected(t *testing.T, want, got string, asJSON bool, chunk int) (diff string, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "want")
	if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := newExpectation(path, asJSON)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	for b := []byte(got); len(b) > 0; {
		n := min(chunk, len(b))
		if _, err := e.Write(b[:n]); err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	var out bytes.Buffer
	err = e.judge(&out)
	return strings.ReplaceAll(out.String(), path, "FILE"), err
}

// TestExpectationOfLongOutputs says how far it looked.
func TestExpectationOfLongOutputs(t *testing.T) {
	long := numbered(1, 200_000)
	diff, err := expected(t, long, "line 0\n"+long, false, 1<<16)
	if err == nil || !strings.Contains(diff, "\n+line 0\n line 1\n") || !strings.HasSuffix(diff, "... compared for 1024 KiB from the first difference on\n") {
		t.Errorf("%v\n%s", err, diff)
	}
}

// TestExpectationIsBounded: outputs that have nothing in common make no diff
// that nobody reads, and are not kept in memory.
func TestExpectationIsBounded(t *testing.T) {
	want := strings.Repeat("what was expected\n", 200_000)
	path := filepath.Join(t.TempDir(), "want")
	if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := newExpectation(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	for i := range 200_000 {
		fmt.Fprintf(e, "what came %d\n", i)
	}
	var out bytes.Buffer
	if err := e.judge(&out); err == nil {
		t.Error("they differ")
	}
	if n := strings.Count(out.String(), "\n"); n != diffLines+1 || !strings.HasSuffix(out.String(), " lines more\n") {
		t.Errorf("%d lines, the last: %q", n, out.String()[out.Len()-40:])
	}
	if len(e.got)+len(e.wanted) > 3*diffWindow {
		t.Errorf("%d bytes are kept", len(e.got)+len(e.wanted))
	}
}
