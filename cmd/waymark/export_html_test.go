// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExportHTML: the page of the demo's recording, and of one that is cut off.
func TestExportHTML(t *testing.T) {
	const recording = noListener
	whole, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cut := filepath.Join(dir, "cut.pcapng")
	if err := os.WriteFile(cut, whole[:len(whole)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		recording, stderr string
		says              []string
	}{
		{recording, "", []string{"<title>no-listener.pcapng</title>", "dropped: NOT_SPECIFIED at nf_queue+0x21f", "advice: start the balancer"}},
		{cut, "is cut off at byte", []string{"<title>cut.pcapng</title>", "dropped: NOT_SPECIFIED", "cut.pcapng is cut off"}},
	} {
		page := filepath.Join(dir, "page.html")
		stdout, stderr, code := run0(t, "export", "--html", page, tt.recording)
		if code != exitOK || stdout != page+": 1 packet; open it in a browser\n" || !strings.Contains(stderr, tt.stderr) || tt.stderr == "" && stderr != "" {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", tt.recording, code, stdout, stderr)
		}
		got, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range tt.says {
			if !strings.Contains(string(got), s) {
				t.Errorf("the page of %s does not say %q", tt.recording, s)
			}
		}
	}
}

// TestExportHTMLKeepsTheOldPage: what is no recording costs nothing.
func TestExportHTMLKeepsTheOldPage(t *testing.T) {
	dir := t.TempDir()
	page, text := filepath.Join(dir, "page.html"), filepath.Join(dir, "text")
	for _, f := range []string{page, text} {
		if err := os.WriteFile(f, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, code := run0(t, "export", "--html", page, text); code != exitUsage {
		t.Errorf("exit %d, want %d", code, exitUsage)
	}
	if got, err := os.ReadFile(page); err != nil || string(got) != "precious" {
		t.Errorf("the old page is %q now, %v", got, err)
	}
}
