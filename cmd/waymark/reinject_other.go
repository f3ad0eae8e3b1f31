// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "errors"

func reinject(string, replayOptions) error {
	return unsupported(errors.New("a lab is made of Linux network namespaces: send packets again there"))
}
