// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"waymark/decoder/pcapng"
	"waymark/scenarios"
)

// replayedAs is what replay prints of one recording, a file or a scenario.
func replayedAs(t *testing.T, output, name string) string {
	t.Helper()
	var out bytes.Buffer
	if err := replay([]string{name}, &out, replayOptions{output: output}); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return out.String()
}

// differenceOf is how got differs from want, as --expect shows it.
func differenceOf(t *testing.T, want []byte, got string, asJSON bool) string {
	t.Helper()
	if got == string(want) {
		return ""
	}
	file := filepath.Join(t.TempDir(), "expected")
	if err := os.WriteFile(file, want, 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := newExpectation(file, asJSON)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	_, _ = e.Write([]byte(got))
	var diff bytes.Buffer
	err = e.judge(&diff)
	return fmt.Sprintf("%v\n%s", err, diff.String())
}

var updateScenarios = flag.Bool("update-scenarios", false, "write anew what is printed of the library's recordings")

// TestLibraryReplays: each scenario tells what it told when it was recorded, for
// whoever replays it and wherever.
func TestLibraryReplays(t *testing.T) {
	if testing.Short() {
		t.Skip("short: no kernel has part in this, it runs on the host")
	}
	for _, s := range scenarios.Library() {
		for output, want := range map[string][]byte{"text": s.Text(), "json": s.JSON()} {
			got := replayedAs(t, output, s.Name)
			if diff := differenceOf(t, want, got, output == "json"); diff != "" && !*updateScenarios {
				t.Errorf("%s as %s: %s", s.Name, output, diff)
			}
			if *updateScenarios {
				suffix := map[string]string{"text": ".txt", "json": ".json"}[output]
				file := filepath.Join("../../scenarios", filepath.FromSlash(s.Name), path.Base(s.Name)+suffix)
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// A scenario is for people to open: it stays small, also if the packet goes in circles.
const scenarioBytes = 96 << 10

// TestLibraryInWireshark: its programs open each recording without a complaint,
// show what waymark puts in, and leave a copy that replays the same.
func TestLibraryInWireshark(t *testing.T) {
	if testing.Short() {
		t.Skip("short: no kernel has part in this, it runs on the host")
	}
	for _, program := range []string{"tshark", "editcap", "mergecap"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("WAYMARK_CI") != "" {
				t.Fatalf("%s is not installed: apt install tshark", program)
			}
			t.Skipf("SKIPPED, %s is not installed (apt install tshark)", program)
		}
	}
	for _, s := range scenarios.Library() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, s.FileName())
			if err := os.WriteFile(file, s.Recording(), 0o600); err != nil {
				t.Fatal(err)
			}
			if n := len(s.Recording()); n > scenarioBytes {
				t.Errorf("it has %d KiB: send less", n>>10)
			}
			packets := packetsIn(t, file)
			if shown := wireshark(t, "tshark", "-r", file, "-T", "fields", "-E", "separator=|",
				"-e", "frame.packet_id", "-e", "frame.interface_name", "-e", "_ws.malformed", "-e", "frame.comment"); shown != packets {
				t.Errorf("tshark shows other packets: %s", differenceOf(t, []byte(packets), shown, false))
			}
			for program, args := range map[string][]string{"editcap": {file, filepath.Join(dir, "editcap")}, "mergecap": {"-w", filepath.Join(dir, "mergecap"), file}} {
				wireshark(t, program, args...)
				rewritten := filepath.Join(dir, program)
				if got := packetsIn(t, rewritten); got != packets {
					t.Errorf("%s leaves other packets: %s", program, differenceOf(t, []byte(packets), got, false))
				}
				want, got := waysIn(t, string(s.JSON())), waysIn(t, replayedAs(t, "json", rewritten))
				if diff := differenceOf(t, []byte(want), got, true); diff != "" {
					t.Errorf("what %s wrote replays as another: %s", program, diff)
				}
			}
		})
	}
}

// waysIn leaves, of what is printed as JSON, each journey's way and loss. How it
// ended otherwise, what was freed and that nothing was heard of it may be told by
// what came after the last packet, which programs that rewrite captures leave out.
func waysIn(t *testing.T, printed string) string {
	t.Helper()
	var ways strings.Builder
	for line := range strings.Lines(printed) {
		var j struct {
			Type, ID, Flow string
			Packet, Hops   json.RawMessage
			Drop           json.RawMessage `json:",omitempty"`
		}
		if err := json.Unmarshal([]byte(line), &j); err != nil {
			t.Fatal(err)
		}
		if j.Type != "journey" {
			continue
		}
		way, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		ways.Write(append(way, '\n'))
	}
	return ways.String()
}

// packetsIn are a capture's packets as tshark is asked to show them: packet id,
// interface, nothing malformed, comment.
func packetsIn(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var packets strings.Builder
	for r := pcapng.NewReader(f); ; {
		b, err := r.Next()
		if errors.Is(err, io.EOF) {
			return packets.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if p := b.Packet; p != nil {
			fmt.Fprintf(&packets, "%d|%s||%s\n", p.PacketID, r.Interfaces()[p.Interface].Name, bytes.Join(p.Comments, []byte(",")))
		}
	}
}

// wireshark runs one of Wireshark's programs, which must not complain.
func wireshark(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	said := strings.Replace(stderr.String(), `Running as user "root" and group "root". This could be dangerous.`, "", 1)
	if said = strings.TrimSpace(said); err != nil || said != "" {
		t.Errorf("%s %s: %v: %s", program, strings.Join(args, " "), err, said)
	}
	return stdout.String()
}

// TestListLibrary: a line and an object for each scenario.
func TestListLibrary(t *testing.T) {
	for _, output := range []string{"text", "json"} {
		var out bytes.Buffer
		if err := printLibrary(&out, output); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		for i, s := range scenarios.Library() {
			for _, part := range []string{s.Name, s.Question, s.Kernel, s.Broken} {
				if i >= len(lines) || !strings.Contains(lines[i], part) {
					t.Errorf("%s does not list %q of %s:\n%s", output, part, s.Name, out.String())
					return
				}
			}
		}
	}
}

// TestOpenSource: a file comes before the scenario of that name, a directory does
// not.
func TestOpenSource(t *testing.T) {
	t.Chdir(t.TempDir())
	s := scenarios.Library()[0]
	content := func(name string) string {
		in, err := openSource(name)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		b, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if err := os.MkdirAll(filepath.FromSlash(s.Name), 0o755); err != nil {
		t.Fatal(err)
	}
	if content(s.Name) != string(s.Recording()) {
		t.Errorf("beside a directory %s is not the scenario", s.Name)
	}
	if err := os.Remove(filepath.FromSlash(s.Name)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.FromSlash(s.Name), []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if content(s.Name) != "a file" {
		t.Errorf("%s is not the file of that name", s.Name)
	}
}
