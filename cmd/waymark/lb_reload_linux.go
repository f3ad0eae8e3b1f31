// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"waymark/nfqlb"
)

// lbReloadPatience is for a balancer that does not answer.
const lbReloadPatience = time.Second

// lbInForce waits until the balancer of this network namespace, if there is
// one, uses the table as it was changed: who takes a target out may shut it
// down next. failed is the outcome of the change.
func lbInForce(table string, failed error) error {
	if failed != nil {
		return failed
	}
	ctx, cancel := context.WithTimeout(context.Background(), lbReloadPatience)
	defer cancel()
	if err := nfqlb.ReloadTargets(ctx, table); err != nil {
		// The table is changed, and the balancer watches it.
		fmt.Fprintf(os.Stderr, "waymark: the balancer has not confirmed the change yet: %v\n", err)
	}
	return nil
}
