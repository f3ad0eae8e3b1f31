// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"waymark/nfqlb"
)

// The balancer's options for being seen from outside.

type lbSeen struct {
	traceAddress, metrics string
	optional              bool // go on if another balancer has the sockets already
}

func lbSeenFlags(f *pflag.FlagSet) *lbSeen {
	o := new(lbSeen)
	f.StringVar(&o.traceAddress, "trace-address", nfqlb.TraceAddress, "where trace clients are served, unix:NAME or tcp:HOST:PORT")
	f.StringVar(&o.metrics, "metrics", "", "serve Prometheus text at this address, /metrics")
	return o
}

func (o *lbSeen) check() error {
	if err := checkMetrics(o.metrics); err != nil {
		return err
	}
	return nfqlb.CheckTraceAddress(o.traceAddress)
}

// start opens the sockets and hands what serves them, metricsText among it, to run.
func (o *lbSeen) start(ctx context.Context, b *nfqlb.Balancer, metricsText func() []byte, run func(func() error), life *lbLife, log zerolog.Logger) error {
	var metrics net.Listener
	if o.metrics != "" {
		var err error
		metrics, err = life.listen(nfqlb.MetricsSocket+" "+o.metrics, func() (net.Listener, error) { return net.Listen("tcp", o.metrics) })
		if err != nil {
			return unsupported(fmt.Errorf("--metrics: %w", err))
		}
	}
	trace, err := life.listen(nfqlb.TraceSocket+" "+o.traceAddress, func() (net.Listener, error) { return nfqlb.ListenTrace(o.traceAddress) })
	if err != nil && !o.without(err, log) {
		if metrics != nil {
			metrics.Close()
		}
		return unsupported(err)
	}
	if trace != nil {
		run(func() error { return b.ServeTrace(ctx, trace, nfqlb.ShmDir) })
	}
	if metrics != nil {
		run(func() error { return serveMetrics(ctx, metrics, metricsText) })
	}
	return nil
}

// without tells whether the balancer serves although opening a socket failed
// with err.
func (o *lbSeen) without(err error, log zerolog.Logger) bool {
	if !o.optional || !errors.Is(err, unix.EADDRINUSE) {
		return false
	}
	log.Warn().Err(err).Msg("not reachable for commands or traces")
	return true
}
