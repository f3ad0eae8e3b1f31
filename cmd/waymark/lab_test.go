// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"waymark/scenarios"
)

func TestParseRate(t *testing.T) {
	for s, want := range map[string]float64{"": 0, "100": 100, "100/s": 100, "0.5/s": 0.5, "1e3/s": 1000} {
		if got, err := parseRate(s); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"0", "-1/s", "x", "/s", "NaN", "Inf", "10/min", "1 2"} {
		if got, err := parseRate(s); err == nil {
			t.Errorf("%q was read as %v", s, got)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	f.Add("100/s")
	f.Add("NaN")
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := parseRate(s); err == nil && s != "" && !(r > 0) {
			t.Errorf("%q was read as %v", s, r)
		}
	})
}

func TestParseSource(t *testing.T) {
	for s, want := range map[string]string{
		"200.100.0.1":        "200.100.0.1:0",
		"200.100.0.1:40000":  "200.100.0.1:40000",
		"200:100::1":         "[200:100::1]:0",
		"[200:100::1]:40000": "[200:100::1]:40000",
	} {
		if got, err := parseSource(s); err != nil || got.String() != want {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
	if got, err := parseSource(":40000"); err != nil || got.Addr().IsValid() || got.Port() != 40000 {
		t.Errorf(":40000: %v, %v", got, err)
	}
	for _, s := range []string{"x", "200.100.0.1:", "200.100.0.1:70000", "[200:100::1", ":", ":-1", ":70000"} {
		if got, err := parseSource(s); err == nil {
			t.Errorf("%q was read as %v", s, got)
		}
	}
}

func FuzzParseSource(f *testing.F) {
	f.Add("200.100.0.1:40000")
	f.Add("[200:100::1]:1")
	f.Fuzz(func(t *testing.T, s string) {
		if ap, err := parseSource(s); err == nil && s != "" && s[0] != ':' && !ap.Addr().IsValid() {
			t.Errorf("%q was read as %v", s, ap)
		}
	})
}

func TestLabExitCodes(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code int
	}{
		"not root":       {fmt.Errorf("enter: %w", fs.ErrPermission), exitUnsupported},
		"kernel":         {fmt.Errorf("queue: %w", scenarios.ErrUnsupported), exitUnsupported},
		"unknown lab":    {scenarios.ErrUnknown, exitUsage},
		"failed traffic": {problem(errors.New("3 of 4 failed")), exitProblem},
		"several errors": {errors.Join(errors.New("a"), errors.New("b")), exitUsage},
	} {
		err := labExit(c.err)
		code := exitUsage
		var coded exitError
		if errors.As(err, &coded) {
			code = coded.code
		}
		if code != c.code {
			t.Errorf("%s: exit code %d, want %d", name, code, c.code)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than one line: %q", name, err)
		}
	}
}

// TestLabListJSON reads the list as a program would: one object per fault.
func TestLabListJSON(t *testing.T) {
	out := captureStdout(t, func() error { return runLab([]string{"list", "-o", "json"}) })
	rows := 0
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); rows++ {
		var row struct {
			Lab, Fault, Question string
			Expect               struct {
				Outcome, Netns, Dev, Advice string
				Drops                       []struct{ Kernel, Reason string }
				Silent                      []int
			}
		}
		if err := dec.Decode(&row); err != nil {
			t.Fatal(err)
		}
		if row.Lab == "" || row.Fault == "" || row.Question == "" ||
			(row.Expect.Outcome == "dropped") != (len(row.Expect.Drops) > 0) || len(row.Expect.Drops) == 0 && len(row.Expect.Silent) == 0 {
			t.Errorf("a row is not complete: %+v", row)
		}
	}
	if rows == 0 {
		t.Error("no rows")
	}
}

func captureStdout(t *testing.T, f func() error) []byte {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "stdout")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	old := os.Stdout
	os.Stdout = file
	err = f()
	os.Stdout = old
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPrintTraffic(t *testing.T) {
	sum := scenarios.Summary{
		Lab: "meridio", Proto: "udp", Dst: "10.0.0.1:5000", Sent: 3, Answered: 2, Failed: 1,
		Targets: map[string]int{"target-2": 1, "target-1": 1}, Errors: map[string]int{"timeout": 1}, Duration: 7 * time.Millisecond,
	}
	var text bytes.Buffer
	if err := printTraffic(&text, sum, "text"); err != nil {
		t.Fatal(err)
	}
	want := "udp 10.0.0.1:5000: 3 sent, 2 answered, 1 failed, 7 ms\n       1 target-1\n       1 target-2\n       1 failed: timeout\n"
	if text.String() != want {
		t.Errorf("got\n%swant\n%s", text.String(), want)
	}
}
