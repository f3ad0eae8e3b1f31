// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import "runtime"

// lockThread keeps the goroutine's thread for itself, and ends it with it.
func lockThread() { runtime.LockOSThread() }
