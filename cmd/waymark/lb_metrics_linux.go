// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// The balancer's counters for Prometheus, at /metrics.

// lbMetricsPatience bounds how long a scraper may take for anything.
const lbMetricsPatience = 10 * time.Second

// lbServeMetrics answers scrapers on l until ctx ends.
func lbServeMetrics(ctx context.Context, l net.Listener, metrics func() []byte) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(metrics()) // a scraper that went away is no matter
	})
	server := &http.Server{
		Handler: mux, ReadTimeout: lbMetricsPatience, WriteTimeout: lbMetricsPatience, MaxHeaderBytes: 16 << 10,
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("--metrics: %w", err)
	}
	return nil
}
