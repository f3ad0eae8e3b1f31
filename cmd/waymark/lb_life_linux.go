// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"waymark/nfqlb"
)

// How the balancer outlives its process: it starts with the flows that the last
// one had, or takes over from one that runs, and lets itself be taken over.

type lbLife struct {
	state    string
	takeover bool

	from  *nfqlb.Inheritance // nil: there is nobody to take over from
	hands []nfqlb.HandedOver // what the next process gets
}

const (
	lbStateAuto = "auto"
	lbStateNone = "none"
)

func lbLifeFlags(f *pflag.FlagSet) *lbLife {
	l := new(lbLife)
	f.StringVar(&l.state, "state", lbStateAuto, "file where the flows are kept for the next start; "+
		lbStateAuto+": one of this network namespace in "+nfqlb.ShmDir+", "+lbStateNone+": start without flows")
	f.BoolVar(&l.takeover, "takeover", false, "take over from the balancer that runs here, without losing a packet; start if there is none")
	return l
}

// lbFlowLB is serve by nfqlb's name: Meridio counts on it to start without
// flows.
func lbFlowLB(args []string) error {
	return lbServe(append([]string{"--state=" + lbStateNone}, args...))
}

// begin gives b its flows: the running balancer's, or those that were kept.
func (l *lbLife) begin(ctx context.Context, b *nfqlb.Balancer, log zerolog.Logger) error {
	if l.takeover {
		switch from, err := nfqlb.TakeOver(ctx); {
		case errors.Is(err, nfqlb.ErrNoBalancer):
			log.Info().Msg("there is no balancer to take over from")
		case err != nil:
			return unsupported(err)
		default:
			l.from = from
		}
	}
	path, err := l.path()
	if err != nil {
		log.Warn().Err(err).Msg("the flows will be lost with this process; --state FILE keeps them")
	}
	if l.from == nil && path != "" {
		l.restore(path, b, log)
	}
	if path != "" {
		b.KeepFlows(path, func(err error) { log.Error().Err(err).Msg("the next start will lack flows") })
	}
	if l.from == nil {
		return nil
	}
	// All or none: packets must go on where they went.
	if err := b.SetFlows(l.from.Flows); err != nil {
		l.end()
		return err
	}
	return nil
}

func (l *lbLife) path() (string, error) {
	switch l.state {
	case lbStateNone:
		return "", nil
	case lbStateAuto:
		return nfqlb.FlowFile()
	}
	return l.state, nil
}

// restore sets the flows that were kept. A balancer without flows drops
// everything, but one that does not start does so, too.
func (l *lbLife) restore(path string, b *nfqlb.Balancer, log zerolog.Logger) {
	specs, err := nfqlb.KeptFlows(path)
	if err != nil {
		log.Error().Err(err).Msg("starting without flows, set them again")
		return
	}
	if err := b.SetFlows(specs); err != nil {
		log.Error().Err(err).Msg("some of the flows that were kept cannot be set")
	}
	if len(specs) > 0 {
		log.Info().Int("flows", len(b.Flows(""))).Str("file", path).Msg("flows are back")
	}
}

// listen is the socket of that name: the running balancer's, or a new one.
func (l *lbLife) listen(name string, open func() (net.Listener, error)) (net.Listener, error) {
	var listener net.Listener
	var err error
	if l.from != nil {
		listener, err = l.from.Listener(name)
	}
	if listener == nil && err == nil {
		listener, err = open()
	}
	if err != nil {
		return nil, err
	}
	if c, ok := listener.(syscall.Conn); ok {
		l.hands = append(l.hands, nfqlb.HandedOver{Name: name, Open: c})
	}
	return listener, nil
}

// tun is the tun device of that name; only one process can open it.
func (l *lbLife) tun(device string) (*nfqlb.Tun, error) {
	name := nfqlb.TunDevice + " " + device
	var file *os.File
	if l.from != nil {
		file = l.from.File(name)
	}
	var tun *nfqlb.Tun
	if file != nil {
		tun = nfqlb.TunFromFile(file)
	} else {
		var err error
		if tun, err = nfqlb.OpenTun(device); err != nil {
			return nil, err
		}
	}
	l.hands = append(l.hands, nfqlb.HandedOver{Name: name, Open: tun})
	return tun, nil
}

// inherit ends the balancer that is taken over, and offers this one to the
// next; gone is called when that has it.
func (l *lbLife) inherit(b *nfqlb.Balancer, e *nfqlb.Engine, log zerolog.Logger, gone func()) error {
	b.OfferTakeover(e, l.hands, func(pid int) {
		log.Info().Int("by_process", pid).Msg("taken over")
		gone()
	})
	if l.from == nil {
		return nil
	}
	return l.from.Inherit(b, e)
}

// end gives back what was not taken out of the running balancer.
func (l *lbLife) end() {
	if l.from != nil {
		l.from.Close()
	}
}
