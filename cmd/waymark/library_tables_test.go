// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"waymark/scenarios"
)

// TestLibraryIsOfTheTables: the library has what make scenarios records of the
// labs' tables, and nothing else.
func TestLibraryIsOfTheTables(t *testing.T) {
	recorded := map[string]scenarios.Scenario{}
	for _, s := range scenarios.Library() {
		recorded[s.Name] = s
	}
	for _, l := range scenarios.List() {
		for _, row := range scenarioRows(l) {
			got, ok := recorded[row.Name]
			if !ok {
				t.Errorf("%s is not recorded: run make scenarios", row.Name)
				continue
			}
			delete(recorded, row.Name)
			got.Kernel = row.Kernel
			if slices.Equal(got.Traffic, row.Traffic) {
				got.Traffic = row.Traffic // nil or empty
			}
			if !reflect.DeepEqual(got, row.Scenario) {
				t.Errorf("%s was recorded as\n%+v\nthe labs' tables say\n%+v\nrun make scenarios", row.Name, got, row.Scenario)
			}
		}
	}
	for name := range recorded {
		t.Errorf("%s is recorded and in no table: run make scenarios", name)
	}
}

// TestExportOfScenarios: where a file can be exported, a scenario can.
func TestExportOfScenarios(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"--dir", dir}, {"--html", filepath.Join(dir, "page.html")}, {"--format", "json"}} {
		out, stderr, code := run0(t, append(append([]string{"export"}, args...), "meridio/no-listener")...)
		if code != exitOK || stderr != "" || out == "" {
			t.Errorf("export %v: exit %d, %q, %q", args, code, out, stderr)
		}
	}
}
