// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
)

// commands is every command of waymark, in the order help lists them. It is a
// function because the help command prints it.
func commands() []command {
	return []command{
		{name: "trace", brief: "follow matching packets and print each one's journey", help: traceHelp, run: runTrace},
		{name: "drops", brief: "show packets that the kernel drops, and why", help: dropsHelp, run: runDrops},
		{name: "record", brief: "record matching packets and what explains them", help: recordHelp, run: runRecord},
		{name: "replay", brief: "print a recording's journeys again", help: replayHelp, run: runReplay},
		{name: "export", brief: "turn a recording into captures per device or flow, or one page", help: exportHelp, run: runExport},
		{name: "extcap", brief: "be a capture interface of Wireshark's", help: extcapHelp, run: runExtcap},
		lbCommand,
		labCommand,
		{name: "doctor", brief: "say what this kernel and these privileges allow", help: doctorHelp, run: runDoctor},
		{name: "version", brief: "print the version", run: runVersion},
		{name: "completion", brief: "print a completion script for bash or zsh", help: completionHelp, run: runCompletion},
		{name: "man", brief: "print the manual page", help: manHelp, run: runMan},
	}
}

// dispatch runs the command that args name.
func dispatch(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("no command given; `waymark help` lists them")
	}
	switch args[1] {
	case "help", "-h", "--help":
		printCommands(os.Stdout)
		return nil
	}
	if calledByWireshark(args[1:]) {
		return runExtcap(args[1:])
	}
	c := lookup(args[1])
	if c == nil {
		return fmt.Errorf("unknown command %q; `waymark help` lists them", args[1])
	}
	return c.run(args[2:])
}

func lookup(name string) *command {
	for _, c := range commands() {
		if c.name == name {
			return &c
		}
	}
	return nil
}

func printCommands(w io.Writer) {
	fmt.Fprintf(w, "waymark follows packets through namespaces and says where they died.\n\nusage: waymark COMMAND [flags] [FILTER...]\n\n")
	for _, c := range commands() {
		if !c.hidden {
			fmt.Fprintf(w, "  %-10s %s\n", c.name, c.brief)
		}
	}
	fmt.Fprintf(w, "\n`waymark COMMAND --help` explains one.\n")
}
