// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
)

// version is waymark's; a release build sets it with -ldflags -X.
var version = "0.1.0"

func runVersion(args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("version takes no arguments")
	}
	fmt.Printf("waymark %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
