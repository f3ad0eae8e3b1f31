// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "errors"

var labCommand = command{
	name:  "lab",
	brief: "bring up a known world, break it, send traffic through it (Linux only)",
	run: func([]string) error {
		return unsupported(errors.New("a lab is made of Linux network namespaces; run this on Linux"))
	},
}
