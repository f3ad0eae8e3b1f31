// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// keeper is a balancer that keeps its flows in path and has read those there.
func keeper(t *testing.T, path string) *Balancer {
	t.Helper()
	b := NewBalancer(Config{}, func(string) (*Table, error) { return NewTable(7, 1, []int{5}) })
	specs, err := KeptFlows(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.SetFlows(specs); err != nil {
		t.Fatal(err)
	}
	b.KeepFlows(path, func(err error) { t.Error(err) })
	return b
}

// A balancer that starts again has the flows, in the order that decides among
// equal priorities.
func TestKeptFlowsComeBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows")
	first := keeper(t, path)
	for _, spec := range keptSpecs() {
		if err := first.SetFlow(spec); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.DeleteFlow("bytes"); err != nil {
		t.Fatal(err)
	}
	second := keeper(t, path)
	if got, want := FormatFlows(second.Flows("")), FormatFlows(first.Flows("")); !slices.Equal(got, want) {
		t.Fatalf("after the start\n%s\nbefore\n%s", got, want)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestKeptFlowsRefusesWhatIsNotItsFile(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	keeper(t, good).SetFlow(FlowSpec{Name: "a", Target: "t"})
	link, pipe, damaged := filepath.Join(dir, "link"), filepath.Join(dir, "pipe"), filepath.Join(dir, "damaged")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(damaged, []byte("waymark-flows 1 crc32c 00000000\n[]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := []string{link, pipe, damaged, dir}
	if os.Geteuid() == 0 {
		foreign := filepath.Join(dir, "foreign")
		data, err := os.ReadFile(good)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(foreign, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(foreign, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		bad = append(bad, foreign)
	}
	for _, path := range bad {
		if specs, err := KeptFlows(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", path, specs, err)
		}
	}
	if specs, err := KeptFlows(good); err != nil || len(specs) != 1 {
		t.Errorf("the good one: %v, %v", specs, err)
	}
	if specs, err := KeptFlows(filepath.Join(dir, "nosuch")); err != nil || specs != nil {
		t.Errorf("no file: %v, %v", specs, err)
	}
}

// A flow is in force although it cannot be kept, and that is told.
func TestFlowsThatCannotBeKept(t *testing.T) {
	b := NewBalancer(Config{}, func(string) (*Table, error) { return NewTable(7, 1, []int{5}) })
	var told error
	b.KeepFlows(filepath.Join(t.TempDir(), "nosuch", "flows"), func(err error) { told = err })
	if err := b.SetFlow(FlowSpec{Name: "a", Target: "t"}); err != nil {
		t.Fatal(err)
	}
	if told == nil || len(b.Flows("")) != 1 {
		t.Errorf("told %v, flows %v", told, b.Flows(""))
	}
}

// Each network namespace has a file of its own.
func TestFlowFileIsOfTheNamespace(t *testing.T) {
	w := newWorld(t, 1)
	here, err := FlowFile()
	if err != nil {
		t.Fatal(err)
	}
	there := ""
	w.inNS(func() { there, err = FlowFile() })
	if err != nil || there == here || !strings.HasPrefix(there, ShmDir+"/nfqlb-flows-") {
		t.Errorf("here %q, there %q, %v", here, there, err)
	}
}
