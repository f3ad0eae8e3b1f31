// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "errors"

// lbSystemCommands are the commands that need Linux.
func lbSystemCommands() []command {
	var commands []command
	for _, name := range []string{"serve", "lb", "init", "activate", "deactivate", "delete", "trace", "loglevel"} {
		commands = append(commands, command{name: name, brief: "(Linux only)", run: func([]string) error {
			return unsupported(errors.New("the balancer runs on Linux only"))
		}})
	}
	return commands
}
