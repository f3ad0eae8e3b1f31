// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"errors"
	"fmt"

	"waymark/decoder"
)

// runExtcap prints the script for Wireshark, which is of use wherever recordings are.
func runExtcap(args []string) error {
	fs := newFlags("extcap", extcapHelp)
	lua := fs.Bool("lua", false, "print the script for Wireshark's fields")
	fs.ParseErrorsWhitelist.UnknownFlags = true // Wireshark's
	if err := parseFlags(fs, args, -1); err != nil {
		return err
	}
	if !*lua {
		return unsupported(errors.New("Linux alone can be traced: capture there, and open the recording here"))
	}
	fmt.Print(decoder.WiresharkLua)
	return nil
}
