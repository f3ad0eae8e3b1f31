// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "errors"

// The commands that look at live traffic need Linux, and so have no help here.
const traceHelp, dropsHelp, recordHelp, doctorHelp = "", "", "", ""

func runTrace([]string) error  { return errNeedsLinux }
func runDrops([]string) error  { return errNeedsLinux }
func runRecord([]string) error { return errNeedsLinux }
func runDoctor([]string) error { return errNeedsLinux }

var errNeedsLinux = unsupported(errors.New("live traffic is seen by Linux alone: run this there with -w FILE, and replay that file here"))
