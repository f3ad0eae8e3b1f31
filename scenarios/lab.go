// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// The table of labs. A new lab is a plan, a start function and faults in files
// of its own, and one line here.

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// labs are all labs there are.
var labs = []*lab{meridio, cbr0, ipvs}

// lab is one known world.
type lab struct {
	name  string
	brief string
	plan  plan
	// files are the shared memory files the processes make.
	files []string
	// start makes what a plan cannot say (rule sets, processes), when the
	// plan is built. It returns when the world answers.
	start func(context.Context, *World) error
	// service says what traffic goes where, unless it is sent to one of services.
	service  service
	services []service
	faults   []Fault
	// balancer says that Options.Balancer can take part.
	balancer bool
	// bridgeNetfilter says that Options.NoBridgeNetfilter makes a difference.
	bridgeNetfilter bool
	// externals are the lab with each external side that Options.External may
	// name; nodes and files are the same in all.
	externals map[string]*lab
	// lacks says, unless it is nil, what this kernel has not and the lab cannot do
	// without; it is asked before anything is built.
	lacks func() error
}

// service is where a lab's clients are and what they talk to. The name is for
// Traffic.To.
type service struct {
	name     string
	brief    string
	client   string     // node
	from4    netip.Addr // source addresses of the client
	from6    netip.Addr
	virtual4 netip.Addr // addresses of the service
	virtual6 netip.Addr
	port     uint16
}

func (l *lab) namespace(node string) string { return "wm-" + l.name + "-" + node }

// Lab describes a lab and its state.
type Lab struct {
	Name   string
	Brief  string
	Up     bool
	Faults []Fault
	// Services are what Traffic.To may name.
	Services []Service
	// Active are the names of the faults that are set.
	Active []string
}

// Service is one of the ways traffic takes through a lab with several.
type Service struct {
	Name, Brief string
	IPv6        bool // it has an IPv6 address; all have one of IPv4
}

// List describes every lab, in a fixed order. It takes no privileges; a lab
// whose state may not be read is listed as not up.
func List() []Lab {
	var list []Lab
	for _, l := range labs {
		r, err := l.readRecord()
		entry := Lab{Name: l.name, Brief: l.brief, Faults: slices.Clone(l.faults)}
		for _, s := range l.services {
			entry.Services = append(entry.Services, Service{s.name, s.brief, s.virtual6.IsValid()})
		}
		if err == nil && r != nil && r.Complete {
			entry.Up = true
			entry.Active = l.activeFaults()
		}
		list = append(list, entry)
	}
	return list
}

func findLab(name string) (*lab, error) {
	var names []string
	for _, l := range labs {
		if l.name == name {
			return l, nil
		}
		names = append(names, l.name)
	}
	return nil, fmt.Errorf("lab %q: %w; there is %s", name, ErrUnknown, strings.Join(names, ", "))
}

// with returns the lab with an external side.
func (l *lab) with(external string) (*lab, error) {
	if external == "" {
		return l, nil
	}
	if v := l.externals[external]; v != nil {
		return v, nil
	}
	if l.externals == nil {
		return nil, fmt.Errorf("lab %s has no external side that could be another one", l.name)
	}
	names := strings.Join(slices.Sorted(maps.Keys(l.externals)), ", ")
	return nil, fmt.Errorf("external side %q of lab %s: %w; there is %s", external, l.name, ErrUnknown, names)
}

// findService returns the service called name; without a name the lab's main one.
func (l *lab) findService(name string) (service, error) {
	if name == "" {
		return l.service, nil
	}
	var names []string
	for _, s := range l.services {
		if s.name == name {
			return s, nil
		}
		names = append(names, s.name)
	}
	if len(names) == 0 {
		return service{}, fmt.Errorf("service %q of lab %s: %w; the lab has one service, which has no name", name, l.name, ErrUnknown)
	}
	return service{}, fmt.Errorf("service %q of lab %s: %w; there is %s", name, l.name, ErrUnknown, strings.Join(names, ", "))
}
