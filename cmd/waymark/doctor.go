// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"waymark/tracer"
)

const doctorHelp = `usage: waymark doctor [-o text|json]

Says what this kernel and these privileges allow: each hook, with which
backend, and what is lost without it. Attaches to no device.

examples:
  waymark doctor
  waymark doctor -o json
  waymark doctor && waymark trace tcp any 10.0.0.1:5000

`

func runDoctor(args []string) error {
	fs := newFlags("doctor", doctorHelp)
	output := fs.StringP("output", "o", "text", "text or json")
	if err := parseFlags(fs, args, 0); err != nil {
		return err
	}
	report := tracer.Doctor()
	switch *output {
	case "json":
		if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
			return err
		}
	case "text":
		printReport(os.Stdout, report)
	default:
		return fmt.Errorf("-o %s: choose text or json", *output)
	}
	if err := report.Err(); err != nil {
		return unsupported(err)
	}
	return nil
}

func printReport(w io.Writer, r tracer.Report) {
	fmt.Fprintf(w, "kernel %s\n\n", r.Kernel)
	for _, c := range r.Checks {
		fmt.Fprintf(w, "%-4s %-16s %s\n", mark(c.OK), c.Name, c.Detail)
		if c.Fix != "" {
			fmt.Fprintf(w, "     %-16s fix: %s\n", "", c.Fix)
		}
	}
	fmt.Fprintf(w, "\n     %-20s %-9s %-13s %s\n", "hook", "group", "backend", "tells")
	for _, h := range r.Hooks {
		fmt.Fprintf(w, "%-4s %-20s %-9s %-13s %s\n", mark(h.Available), h.Name, h.Group, h.Backend, h.Tells)
		if !h.Available {
			fmt.Fprintf(w, "     %-20s lost: %s\n", "", h.Lost)
			fmt.Fprintf(w, "     %-20s why:  %s\n", "", h.Why)
		}
	}
}

func mark(ok bool) string {
	if ok {
		return "ok"
	}
	return "no"
}
