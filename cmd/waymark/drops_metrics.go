// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"net"

	"github.com/rs/zerolog"

	"waymark/decoder"
	"waymark/nfqlb"
)

// dropMetrics serves the counters of drops to Prometheus while they are traced.
type dropMetrics struct {
	counters *decoder.DropCounters
	stop     func()
}

func startDropMetrics(address string, log zerolog.Logger) (*dropMetrics, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, unsupported(fmt.Errorf("--metrics: %w", err))
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &dropMetrics{counters: decoder.NewDropCounters(), stop: cancel}
	log.Info().Stringer("address", l.Addr()).Msg("serving metrics")
	go func() {
		if err := serveMetrics(ctx, l, m.text); err != nil {
			log.Error().Err(err).Msg("no metrics from now on")
		}
	}()
	return m, nil
}

// watch has s tell the counters what it emits, besides what o does with that.
func (m *dropMetrics) watch(o decoder.Options, status func() *decoder.Status) decoder.Options {
	also := func(f func(*decoder.Drop)) func(*decoder.Drop) {
		return func(d *decoder.Drop) { m.counters.Add(d); f(d) }
	}
	clock := o.EmitClock
	o.EmitDrop, o.EmitNormal = also(o.EmitDrop), also(o.EmitNormal)
	o.EmitClock = func(t decoder.WallTime) { m.counters.SetStatus(status()); clock(t) }
	return o
}

func (m *dropMetrics) text() []byte { return dropMetricsText(m.counters.Read()) }

// dropMetricsText is the counters as Prometheus text. Labels are names of the
// node and the kernel, never from packets.
func dropMetricsText(s decoder.DropSamples) []byte {
	var m nfqlb.MetricsText
	m.Family("waymark_drops_total", "counter", "Packets the kernel dropped.")
	for _, d := range s.Series {
		m.Sample("waymark_drops_total", d.Count, "netns", d.Netns, "device", d.Device, "reason", d.Reason, "function", d.Function)
	}
	if s.Others > 0 {
		const o = nfqlb.OtherSeries
		m.Sample("waymark_drops_total", s.Others, "netns", o, "device", o, "reason", o, "function", o)
	}
	m.Family("waymark_drops_normal_total", "counter", "Packets freed as drops in normal use, by why that is no loss.")
	for _, n := range s.Normal {
		m.Sample("waymark_drops_normal_total", n.Count, "why", n.Why)
	}
	m.Single("waymark_records_total", "counter", "Records read from the kernel.", s.Status.Records)
	m.Single("waymark_records_lost_total", "counter", "Records the kernel could not write: drops may be missing.", s.Status.Lost)
	m.Single("waymark_untracked_total", "counter", "Packets the kernel could not follow.", s.Status.Untracked)
	return m.Bytes()
}
