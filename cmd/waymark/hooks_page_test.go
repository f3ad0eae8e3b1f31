// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"waymark/tracer"
)

var updatePage = flag.Bool("update-hooks", false, "write docs/hooks.md anew, with this kernel's column")

const hooksPage = "../../docs/hooks.md"

// pageKernels are the columns of the page.
var pageKernels = []string{"6.1", "6.12", "6.18"}

// TestHooksPage: docs/hooks.md is the hook table, and says of the kernel that
// this runs on what `waymark doctor` says.
func TestHooksPage(t *testing.T) {
	if !slices.Contains(pageKernels, kernelLine()) {
		t.Skipf("the page has no column for kernel %s", kernelLine())
	}
	loaded := map[string]bool{"": true}
	for _, row := range tracer.Hooks {
		if !loaded[row.Module] { // else it is built in, or is not there
			_ = exec.Command("modprobe", row.Module).Run()
		}
		loaded[row.Module] = true
	}
	out, stderr, code := run0(t, "doctor", "-o", "json")
	var r tracer.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("doctor (exit %d): %v: %s", code, err, stderr)
	}
	page, err := os.ReadFile(hooksPage)
	if err != nil && !*updatePage {
		t.Fatal(err)
	}
	backends := pageBackends(string(page))
	for _, h := range r.Hooks {
		if backends[h.Name] == nil {
			backends[h.Name] = map[string]string{}
		}
		backends[h.Name][kernelLine()] = string(h.Backend)
	}
	want := renderHooksPage(backends)
	if want == string(page) {
		return
	}
	if *updatePage {
		if err := os.WriteFile(hooksPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("docs/hooks.md is not what the hook table and doctor say; run this test with -update-hooks, or on other kernels write\n%s", want)
}

// pageBackends reads the backends, by hook and kernel, that a page has.
func pageBackends(page string) map[string]map[string]string {
	all := map[string]map[string]string{}
	for line := range strings.Lines(page) {
		cells := strings.Split(line, "|")
		if len(cells) != 8+len(pageKernels)-1 {
			continue
		}
		name := strings.Trim(cells[1], " `")
		all[name] = map[string]string{}
		for i, k := range pageKernels {
			all[name][k] = strings.Trim(cells[3+i], " –")
		}
	}
	return all
}

func renderHooksPage(backends map[string]map[string]string) string {
	var b strings.Builder
	b.WriteString(`# Hooks

Where waymark looks, group by group (` + "`--hooks`" + `), and how it is attached on
the kernels it is tested on: Debian's 6.1 and 6.12, and a 6.18 without kprobes
and fentry. – means that this kernel cannot. ` + "`waymark doctor`" + ` says the same of
the kernel it runs on. This page is made from the hook table (tracer/hooks.go) by
a test.

| hook | group | ` + strings.Join(pageKernels, " | ") + ` | tells | without it one does not learn | a packet that does not match pays |
|---|---|` + strings.Repeat("---|", len(pageKernels)) + `---|---|---|
`)
	for _, row := range tracer.Hooks {
		fmt.Fprintf(&b, "| `%s` | %s |", row.Name, row.Group)
		for _, k := range pageKernels {
			cell := backends[row.Name][k]
			if cell == "" {
				cell = "–"
			}
			fmt.Fprintf(&b, " %s |", cell)
		}
		fmt.Fprintf(&b, " %s | %s | %s |\n", row.Tells, row.Lost, row.Cost)
	}
	return b.String()
}
