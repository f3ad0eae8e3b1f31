// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"path"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"waymark/nfqlb"
)

// The balancer's options for deciding packets in the kernel.

type lbFastPath struct {
	mode     string
	devices  []string
	redirect bool
}

func lbFastPathFlags(f *pflag.FlagSet) *lbFastPath {
	o := new(lbFastPath)
	f.StringVar(&o.mode, "fastpath", "off", "decide packets in the kernel where they enter, so that they pass the queue by: on, auto (if that works here) or off")
	f.StringSliceVar(&o.devices, "fastpath-device", []string{"nsm-*", "ext-vlan*"}, "patterns of the devices by which clients' packets enter")
	f.BoolVar(&o.redirect, "fastpath-redirect", false, "hand packets straight to their nexthop where routing would do just that")
	return o
}

func (o *lbFastPath) check() error {
	switch o.mode {
	case "on", "auto", "off":
	default:
		return fmt.Errorf("--fastpath %q is none of on, auto and off", o.mode)
	}
	if o.redirect && o.mode == "off" {
		return fmt.Errorf("--fastpath-redirect needs --fastpath on or auto")
	}
	for _, p := range o.devices {
		if _, err := path.Match(p, "x"); err != nil {
			return fmt.Errorf("--fastpath-device %q is no pattern: use * ? and [a-z] as in a shell", p)
		}
	}
	return nil
}

// start loads the fast path and hands what attaches it to run. metrics are its
// counters as Prometheus text; end, called when all of run's have ended, frees
// what was loaded.
func (o *lbFastPath) start(ctx context.Context, b *nfqlb.Balancer, queues nfqlb.QueueConfig, log zerolog.Logger, run func(func() error)) (metrics func() []byte, end func(), err error) {
	metrics, end = func() []byte { return nil }, func() {}
	if o.mode == "off" {
		return metrics, end, nil
	}
	f, err := nfqlb.NewFastPath(b, nfqlb.FastPathConfig{
		Devices: o.devices, Redirect: o.redirect, FirstQueue: queues.First, LastQueue: queues.Last,
		Log: func(message string, err error) {
			if err != nil {
				log.Warn().Err(err).Msg(message)
				return
			}
			log.Info().Msg(message)
		},
	})
	if err != nil {
		if o.mode == "on" {
			return metrics, end, unsupported(fmt.Errorf("--fastpath on: %w", err))
		}
		log.Warn().Err(err).Msg("all packets go through the queue, there is no fast path here")
		return metrics, end, nil
	}
	run(func() error {
		err := f.Run(ctx, nil)
		if err != nil && o.mode == "auto" {
			log.Warn().Err(err).Msg("all packets go through the queue, the fast path failed")
			<-ctx.Done() // the balancer goes on
			return nil
		}
		return err
	})
	return f.Metrics, func() {
		log.Info().Interface("fastpath", f.Stats()).Msg("fast path stopped")
		f.Close()
	}, nil
}
