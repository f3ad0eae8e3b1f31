// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// TestLibraryIsWhole: each scenario has all its files, and is found by its name.
func TestLibraryIsWhole(t *testing.T) {
	if len(Library()) == 0 {
		t.Fatal("the library is empty")
	}
	bases := map[string]int{}
	for _, s := range Library() {
		bases[path.Base(s.Name)]++
	}
	for _, s := range Library() {
		base := path.Base(s.Name)
		if s.Name != s.Lab+"/"+base || s.Kernel == "" || (s.Fault != "") != (s.Question != "" && s.Broken != "" && base == s.Fault) {
			t.Errorf("%+v", s)
		}
		if len(s.Recording()) == 0 || len(s.Text()) == 0 || len(s.JSON()) == 0 {
			t.Errorf("%s: a file is empty", s.Name)
		}
		if got, ok := FindScenario(s.Name); !ok || got.Name != s.Name {
			t.Errorf("%s is found as %q", s.Name, got.Name)
		}
		if got, ok := FindScenario(base); ok != (bases[base] == 1) || ok && got.Name != s.Name {
			t.Errorf("%s is found as %q, %v; %d have that name", base, got.Name, ok, bases[base])
		}
	}
}

func TestCloseScenarios(t *testing.T) {
	for name, want := range map[string]string{
		"no-listner": "meridio/no-listener", "meridio/no-lisener": "meridio/no-listener", "listener": "meridio/no-listener",
		"meridio/healthy-v5": "meridio/healthy-v4", "": "", "/tmp/vip.pcapng": "", strings.Repeat("x", 10_000): "",
	} {
		got := CloseScenarios(name)
		if want == "" && len(got) > 0 || want != "" && !slices.Contains(got, want) || len(got) > 5 {
			t.Errorf("%.40q is close to %v, want %q", name, got, want)
		}
		if _, ok := FindScenario(name); ok {
			t.Errorf("%q is a scenario", name)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"rp-filter", "rp-filer", 1}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := distance(c.b, c.a); got != c.want {
			t.Errorf("%q to %q: %d, want %d", c.b, c.a, got, c.want)
		}
	}
}
