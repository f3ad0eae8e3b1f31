// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"waymark/scenarios"
)

// openSource opens a recording: the file called name, else the scenario of the
// library. A directory is no file: the library's own names lead to some.
func openSource(name string) (*os.File, error) {
	f, err := os.Open(name)
	s, ok := scenarios.FindScenario(name)
	if err == nil {
		info, statErr := f.Stat()
		if statErr != nil || !info.IsDir() || !ok {
			return f, nil
		}
		f.Close()
	}
	if ok {
		return piped(s.Recording())
	}
	if filepath.IsAbs(name) || strings.HasPrefix(filepath.Ext(name), ".pcap") {
		return nil, err // it is meant to be a file
	}
	meant := ""
	if names := scenarios.CloseScenarios(name); len(names) > 0 {
		meant = " (close: " + strings.Join(names, ", ") + ")"
	}
	return nil, fmt.Errorf("%w, and no scenario has that name%s; `waymark replay --list` lists them", err, meant)
}

// piped gives content to whoever reads files.
func piped(content []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		_, _ = w.Write(content) // who closes it early wants no more
		w.Close()
	}()
	return r, nil
}

// listLibrary is `waymark replay --list`.
func listLibrary(fs *pflag.FlagSet, output string) error {
	if fs.NArg() > 0 || fs.NFlag() > 1 && !(fs.NFlag() == 2 && fs.Changed("output")) {
		return errors.New("--list lists the library: leave out everything else but -o")
	}
	if output != "text" && output != "json" {
		return fmt.Errorf("-o %s: choose text or json", output)
	}
	return printLibrary(os.Stdout, output)
}

// printLibrary lists the library's scenarios.
func printLibrary(w io.Writer, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		for _, s := range scenarios.Library() {
			if err := enc.Encode(s); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range scenarios.Library() {
		question, broken := s.Question, s.Broken
		if s.Fault == "" {
			question, broken = "-", "nothing is broken"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", s.Name, question, s.Kernel, broken)
	}
	return table.Flush()
}
