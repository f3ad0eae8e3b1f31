// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"waymark/decoder"
	"waymark/tracer/place"
)

// places keeps the trace on the namespaces and devices that are there: it
// attaches to devices as they appear, releases them as they go, and hands
// every new state of a namespace to the stream.
type places struct {
	t       *Tracer
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	devices bool // attach to devices at all

	mu      sync.Mutex
	attach  *attacher
	watched map[uint32]context.CancelFunc // by inode
	failed  map[deviceKey]bool            // devices that refused, told once
	updates []update
}

// update is a new state of a namespace, for the stream.
type update struct {
	ns    place.Namespace
	state *place.State
}

// openPlaces attaches to everything that is there now.
func openPlaces(ctx context.Context, t *Tracer, devices bool) (*places, error) {
	p := &places{
		t: t, devices: devices, attach: newAttacher(t.programs),
		watched: map[uint32]context.CancelFunc{}, failed: map[deviceKey]bool{},
	}
	p.ctx, p.cancel = context.WithCancel(ctx)
	current, err := p.current()
	if err != nil {
		return p, err
	}
	var first error
	for _, ns := range current {
		if err := p.watch(ns); err != nil && first == nil {
			first = err
		}
	}
	if n, _ := p.attached(); devices && n == 0 && first != nil {
		return p, first // nothing works, and this is why
	}
	return p, nil
}

// current is the namespaces that should be watched.
func (p *places) current() ([]place.Namespace, error) {
	if len(p.t.opts.Netns) == 0 {
		return place.Discover()
	}
	var all []place.Namespace
	for _, spec := range p.t.opts.Netns {
		if ns, err := place.Find(spec); err == nil {
			all = append(all, ns)
		}
	}
	return all, nil
}

// rescan starts to watch namespaces that came and stops with those that went.
func (p *places) rescan() {
	current, err := p.current()
	if err != nil {
		p.t.opts.Log.Warn().Err(err).Msg("namespaces could not be listed")
		return
	}
	present := map[uint32]bool{}
	for _, ns := range current {
		present[ns.Inode] = true
		p.mu.Lock()
		_, watched := p.watched[ns.Inode]
		p.mu.Unlock()
		if watched {
			continue
		}
		if len(p.t.opts.Netns) > 0 { // it came back under the name
			_ = p.t.programs.shared.Maps["netns"].Put(ns.Inode, uint8(1))
		}
		if err := p.watch(ns); err != nil {
			p.t.opts.Log.Warn().Err(err).Msg("a namespace is not traced")
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for inode, cancel := range p.watched {
		if present[inode] {
			continue
		}
		cancel()
		delete(p.watched, inode)
		for key := range p.attach.links {
			if key.netns == inode {
				p.attach.detach(key)
			}
		}
	}
}

// watch subscribes to changes of the namespace, then attaches to what is there.
func (p *places) watch(ns place.Namespace) error {
	ctx, cancel := context.WithCancel(p.ctx)
	ready := make(chan error, 1)
	p.wg.Go(func() {
		var once sync.Once
		err := place.Watch(ctx, ns, func() { once.Do(func() { ready <- nil }) }, func() {
			if err := p.sync(ns); err != nil && !errors.Is(err, os.ErrNotExist) {
				p.t.opts.Log.Warn().Err(err).Msg("a change could not be followed")
			}
		})
		if err != nil && ctx.Err() == nil {
			p.t.opts.Log.Warn().Err(err).Msg("changes of a namespace are no longer seen")
		}
		once.Do(func() { ready <- err })
	})
	if err := <-ready; err != nil {
		cancel()
		return err
	}
	p.mu.Lock()
	p.watched[ns.Inode] = cancel
	p.mu.Unlock()
	return p.sync(ns)
}

// sync makes the attached devices those that match, and hands on the state.
func (p *places) sync(ns place.Namespace) error {
	state, err := place.Read(ns)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return nil
	}
	p.updates = append(p.updates, update{ns, state})
	if !p.devices {
		return nil
	}
	present := map[deviceKey]bool{}
	var first error
	for _, d := range state.Devices {
		key := deviceKey{ns.Inode, d.Index}
		if !MatchDevice(p.t.opts.Devices, d.Name) || p.failed[key] {
			continue
		}
		present[key] = true
		if err := p.attachTo(ns, d); err != nil {
			p.failed[key] = true
			if first == nil {
				first = err
			}
		}
	}
	for key := range p.attach.links {
		if key.netns == ns.Inode && !present[key] {
			p.attach.detach(key)
		}
	}
	return first
}

func (p *places) attachTo(ns place.Namespace, d decoder.Device) error {
	if d.MAC == "" && d.Kind != "" && d.Name != "lo" {
		return fmt.Errorf("%s/%s has no Ethernet header: it is not traced", ns.Name, d.Name)
	}
	return p.attach.attach(ns, d)
}

// update hands states read since the last call to the stream, from its side.
func (p *places) update(s *stream) error {
	p.mu.Lock()
	updates := p.updates
	p.updates = nil
	p.mu.Unlock()
	for _, u := range updates {
		t := s.places[u.ns.Inode]
		if t == nil {
			t = &told{}
			s.places[u.ns.Inode] = t
		}
		t.ns = u.ns
		if err := s.changed(t, u.state); err != nil {
			return err
		}
		if err := s.lookForBalancer(t); err != nil {
			return err
		}
		t.lookForDirector()
	}
	return nil
}

// attached counts devices and the namespaces they are in.
func (p *places) attached() (devices, namespaces int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := map[uint32]bool{}
	for key := range p.attach.links {
		in[key.netns] = true
	}
	return len(p.attach.links), len(in)
}

// stop ends the watching: no device is attached from here on.
func (p *places) stop() {
	p.cancel()
	p.wg.Wait()
}

// detach releases all devices.
func (p *places) detach() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attach.close()
}

// nameless is the name of a namespace that nobody can be found for.
func nameless(inode uint32) string { return fmt.Sprintf("netns:[%d]", inode) }
