// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"waymark/scenarios"
)

var updateFaults = flag.Bool("update-faults", false, "write docs/faults.md anew")

const faultsPage = "../../docs/faults.md"

// TestFaultsPage: docs/faults.md is what the labs' fault tables say, which other
// tests hold the kernels to.
func TestFaultsPage(t *testing.T) {
	want := renderFaultsPage()
	if *updateFaults {
		if err := os.WriteFile(faultsPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(faultsPage)
	if err != nil {
		t.Fatal(err)
	}
	if want != string(page) {
		t.Error("docs/faults.md is not what the fault tables say; run this test with -update-faults")
	}
}

func renderFaultsPage() string {
	var b strings.Builder
	b.WriteString(`# Faults

What can be broken in the labs with ` + "`waymark lab fault LAB FAULT`" + `, and what the
kernels then say of the packets that are lost: the reason and the function that
frees them, on Debian's 6.1 and 6.12, and a 6.18. Without a cell the kernel of
that line loses nothing, or lacks the lab. Where no kernel frees a packet, the cell
says what is seen of it; ` + "`trace`" + ` explains it from the state of the namespace where it
was last. The question is the one that
` + "`trace`" + ` and ` + "`drops`" + ` name with their advice; a second one has the same answer. This page is made from the labs'
fault tables (scenarios/*_faults.go) by a test; other tests set each fault on each
of these kernels.
`)
	for _, l := range scenarios.List() {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n", l.Name, l.Brief)
		b.WriteString("| fault | question | what is broken | what is lost, where | IP | " + strings.Join(pageKernels, " | ") +
			" | what to do |\n|---|---|---|---|---|" + strings.Repeat("---|", len(pageKernels)) + "---|\n")
		for _, f := range l.Faults {
			head := fmt.Sprintf("`%s` | %s | %s | %s, %s", f.Name, strings.TrimSuffix(f.Question+", "+f.Also, ", "), f.Brief, f.Expect.Packet, strings.TrimSuffix(f.Expect.Netns+"/"+f.Expect.Dev, "/"))
			todo := f.Expect.Advice
			for _, ip := range []int{4, 6} {
				cells, some := faultCells(f, ip)
				if !some {
					continue
				}
				fmt.Fprintf(&b, "| %s | %d | %s | %s |\n", head, ip, strings.Join(cells, " | "), todo)
				head, todo = " | | | ", ""
			}
		}
	}
	return b.String()
}

// faultCells are what each of the page's kernels does with packets of an IP
// version; some is false if the fault is none for them.
func faultCells(f scenarios.Fault, ip int) (cells []string, some bool) {
	cells = make([]string, len(pageKernels))
	silent := slices.Contains(f.Expect.Silent, ip)
	some = silent
	for i, k := range pageKernels {
		if silent {
			cells[i] = f.Expect.Outcome + ", nothing comes of it"
		}
		for _, s := range f.Expect.Drops {
			if s.IP != ip || s.Kernel != k {
				continue
			}
			some = true
			reason := s.Reason
			if s.Or != "" && s.Or != s.Reason {
				reason += " or " + s.Or
			}
			cells[i] = fmt.Sprintf("%s at %s", reason, strings.Join(s.At, " or "))
			if s.Dev != "" {
				cells[i] += ", at " + s.Dev
			}
		}
	}
	return cells, some
}
