// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"waymark/nfqlb"
)

// The binary linked or named nfqlb: the balancer's commands alone, with nfqlb's
// exit codes, so that what drives nfqlb needs no change.

const nfqlbName = "nfqlb"

// Exit codes of nfqlb.
const (
	nfqlbFailure = 1
	nfqlbRefused = 255 // the balancer answered, but not with OK
)

// lbName is how the user calls the balancer's commands.
var lbName = "waymark lb"

// dispatchNfqlb runs the command that args name.
func dispatchNfqlb(args []string) error {
	lbName = nfqlbName
	if len(args) == 0 {
		printLBCommands(os.Stdout)
		return nil
	}
	return runLB(args)
}

// nfqlbExit prints err and gives the exit code. A refusal is printed as the
// balancer says it, on stdout.
func nfqlbExit(err error) int {
	var refused *nfqlb.RefusedError
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
		return exitOK
	case errors.As(err, &refused):
		fmt.Println(refused.Answer)
		return nfqlbRefused
	}
	fmt.Fprintln(os.Stderr, "nfqlb:", inNameOf(err.Error()))
	return nfqlbFailure
}

// inNameOf is text about the balancer's commands, as the user calls them.
func inNameOf(text string) string { return strings.ReplaceAll(text, "waymark lb", lbName) }
