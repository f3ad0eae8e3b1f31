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

// Counters for Prometheus, at /metrics.

// metricsPatience bounds how long a scraper may take for anything.
const metricsPatience = 10 * time.Second

// checkMetrics refuses what is no address to listen at; empty is none wanted.
func checkMetrics(address string) error {
	if address == "" {
		return nil
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return fmt.Errorf("--metrics %q is no address like :9100 or [::1]:9100", address)
	}
	return nil
}

// serveMetrics answers scrapers on l until ctx ends.
func serveMetrics(ctx context.Context, l net.Listener, metrics func() []byte) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(metrics()) // a scraper that went away is no matter
	})
	server := &http.Server{
		Handler: mux, ReadTimeout: metricsPatience, WriteTimeout: metricsPatience, MaxHeaderBytes: 16 << 10,
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("--metrics: %w", err)
	}
	return nil
}
