// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var updateReadme = flag.Bool("update-readme", false, "write the README's traces anew")

const readmePage = "../../README.md"

// TestReadmeShowsWhatIsPrinted: the README's traces are those of the library, and
// its list of commands is the binary's.
func TestReadmeShowsWhatIsPrinted(t *testing.T) {
	content, err := os.ReadFile(readmePage)
	if err != nil {
		t.Fatal(err)
	}
	readme := string(content)
	done := ""                       // what is before the next block
	for _, block := range []struct { // in the order of the page
		command string
		replay  []string // flags and scenario that print the same
		most    int      // journeys
	}{
		{"trace -c 2 tcp any 10.0.0.1:5000", []string{"meridio/healthy-v4"}, 2},
		{"trace -c 1 tcp any 10.0.0.1:5000", []string{"meridio/no-listener"}, 1},
		{"trace -c 1 tcp any 10.0.0.1:5000", []string{"meridio/no-source-rule"}, 1},
		{
			"replay --only dropped --filter 'tcp any 10.0.0.1:5000' --flows meridio/healthy-v4 meridio/no-listener",
			[]string{"--only", "dropped", "--filter", "tcp any 10.0.0.1:5000", "--flows", "meridio/healthy-v4", "meridio/no-listener"},
			1,
		},
	} {
		out, _, _ := run0(t, append([]string{"replay"}, block.replay...)...)
		out = firstJourneys(out, block.most)
		before, rest, found := strings.Cut(readme[len(done):], "# waymark "+block.command+"\n")
		before = done + before + "# waymark " + block.command + "\n"
		shown, after, whole := strings.Cut(rest, "```\n")
		if !found || !whole || out == "" {
			t.Errorf("README.md has no block of `%s`, which prints\n%s", block.command, out)
			continue
		}
		done = before + shown
		if *updateReadme {
			done = before + out
			readme = done + "```\n" + after
		} else if shown != out {
			t.Errorf("README.md does not show what `%s` prints; run this test with -update-readme:\n%s", block.command, out)
		}
	}
	for _, c := range commands() {
		if line := fmt.Sprintf("%-10s %s\n", c.name, c.brief); !c.hidden && !strings.Contains(readme, line) {
			t.Errorf("README.md lacks %q", line)
		}
	}
	if *updateReadme {
		if err := os.WriteFile(readmePage, []byte(readme), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// firstJourneys are the first most things in what is printed as text: the lines
// of one behind its first are indented.
func firstJourneys(text string, most int) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, " ") {
			most--
		}
		if most < 0 {
			break
		}
		out.WriteString(line)
	}
	return out.String()
}
