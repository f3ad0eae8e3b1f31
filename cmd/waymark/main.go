// SPDX-License-Identifier: Apache-2.0

// Command waymark follows packets through network namespaces, pods and nodes,
// says what was decided at every hop, and why they stopped.
//
// Each command is one file here; it parses flags and prints, nothing else.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/pflag"
)

// Exit codes of every command.
const (
	exitOK          = 0
	exitProblem     = 1 // the command looked for a problem and found one
	exitUsage       = 2 // wrong usage or bad input
	exitUnsupported = 3 // not permitted, or not supported by this machine
)

// command is one row of the command table. run gets the arguments after the
// command's name. An error is printed as one line; its exit code is 2 unless
// it was made by problem or unsupported.
type command struct {
	name  string
	brief string
	help  string // what --help prints before the flags; empty: the command has its own
	run   func(args []string) error
	// hidden commands work but are not listed.
	hidden bool
}

// exitError carries the exit code for an error.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string { return e.err.Error() }
func (e exitError) Unwrap() error { return e.err }

// problem marks err as a found problem: exit code 1.
func problem(err error) error { return exitError{exitProblem, err} }

// unsupported marks err as "not permitted or not supported here": exit code 3.
func unsupported(err error) error { return exitError{exitUnsupported, err} }

func main() {
	// Little is kept for long and much is told: twice the memory of what is kept
	// saves a sixth of the time. Whoever sets GOGC knows better.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
	os.Exit(run(os.Args))
}

func run(args []string) int {
	if filepath.Base(args[0]) == nfqlbName {
		return nfqlbExit(dispatchNfqlb(args[1:]))
	}
	err := dispatch(args)
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
		return exitOK
	}
	fmt.Fprintln(os.Stderr, "waymark:", err)
	var e exitError
	if errors.As(err, &e) {
		return e.code
	}
	return exitUsage
}
