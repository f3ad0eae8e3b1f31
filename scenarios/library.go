// SPDX-License-Identifier: Apache-2.0

package scenarios

// The library: a recording of each fault and of each healthy way through a lab,
// with what waymark tells of it. It is part of the program and works on any
// system; `make scenarios` records it anew.
//
//	LAB/NAME/scenario.json  what was recorded (Scenario)
//	LAB/NAME/NAME.pcapng    the recording
//	LAB/NAME/NAME.txt       what `waymark replay` prints of it
//	LAB/NAME/NAME.json      the same with -o json

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
)

//go:embed */*/scenario.json */*/*.pcapng */*/*.txt */*/*.json
var library embed.FS

// Scenario is one entry of the library.
type Scenario struct {
	Name     string   `json:"name"`               // LAB/NAME
	Question string   `json:"question,omitempty"` // of the question table, "M32"; a healthy one answers none
	Broken   string   `json:"broken,omitempty"`   // what was broken; nothing in a healthy one
	Lab      string   `json:"lab"`                // to bring up
	Fault    string   `json:"fault,omitempty"`    // that was set in it
	Traffic  []string `json:"traffic"`            // arguments of `waymark lab traffic LAB`
	Kernel   string   `json:"kernel"`             // release that it was recorded on
}

// ScenarioFile is the name of the file that describes a scenario in its directory.
const ScenarioFile = "scenario.json"

// Library lists the scenarios: the labs by name, of each the healthy ones first.
var Library = sync.OnceValue(func() []Scenario {
	files, err := fs.Glob(library, "*/*/"+ScenarioFile)
	if err != nil {
		panic(err) // of the pattern alone
	}
	var all []Scenario
	for _, file := range files {
		content, err := library.ReadFile(file)
		if err != nil {
			panic(err) // it is in the program
		}
		var s Scenario
		if err := json.Unmarshal(content, &s); err != nil {
			panic(fmt.Sprintf("%s: %v", file, err)) // a test reads each
		}
		all = append(all, s)
	}
	slices.SortStableFunc(all, func(a, b Scenario) int {
		if a.Lab != b.Lab {
			return strings.Compare(a.Lab, b.Lab)
		}
		if (a.Fault == "") != (b.Fault == "") {
			return len(a.Fault) - len(b.Fault)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
})

// FindScenario returns the scenario called LAB/NAME, or NAME if one lab alone has
// it.
func FindScenario(name string) (s Scenario, ok bool) {
	found := 0
	for _, candidate := range Library() {
		if candidate.Name == name {
			return candidate, true
		}
		if path.Base(candidate.Name) == name {
			s = candidate
			found++
		}
	}
	if found != 1 {
		return Scenario{}, false
	}
	return s, true
}

// CloseScenarios are the names of up to five scenarios that somebody may have
// meant by name: those that contain it, then those that differ least from it.
func CloseScenarios(name string) []string {
	const most = 5
	type candidate struct {
		name     string
		distance int
	}
	var all []candidate
	for _, s := range Library() {
		c := candidate{s.Name, min(distance(name, s.Name), distance(name, path.Base(s.Name)))}
		if name != "" && strings.Contains(s.Name, name) {
			c.distance = 0
		}
		if c.distance <= max(1, len(name)/3) {
			all = append(all, c)
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return a.distance - b.distance })
	var names []string
	for _, c := range all[:min(len(all), most)] {
		names = append(names, c.name)
	}
	return names
}

// distance is Levenshtein's: how many bytes to insert, delete or change to make
// one word of the other.
func distance(a, b string) int {
	if d := len(a) - len(b); d > 20 || d < -20 {
		return max(d, -d) // at least, which is enough here: a is what anybody typed
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// Recording is the scenario's pcapng.
func (s Scenario) Recording() []byte { return s.file(".pcapng") }

// Text is what replay prints of it.
func (s Scenario) Text() []byte { return s.file(".txt") }

// JSON is what replay prints of it with -o json.
func (s Scenario) JSON() []byte { return s.file(".json") }

// FileName is what the recording's file is called.
func (s Scenario) FileName() string { return path.Base(s.Name) + ".pcapng" }

func (s Scenario) file(suffix string) []byte {
	content, err := library.ReadFile(path.Join(s.Name, path.Base(s.Name)+suffix))
	if err != nil {
		panic(err) // a test reads each
	}
	return content
}
