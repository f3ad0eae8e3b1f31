// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf/link"
)

// detach takes the hooks of a group off the kernel. Their programs stay loaded,
// to be attached again. The kernel takes its time for it: the returned function
// waits for that, on any goroutine.
func (p *programs) detach(group string) (wait func()) {
	var links []link.Link
	for _, row := range Hooks {
		if row.Group == group {
			links = append(links, p.links[row.Name]...)
			delete(p.links, row.Name)
		}
	}
	p.shed[group] = true
	return func() { closeAll(links) }
}

// closeAll detaches all at once: each waits for the kernel to have patched its
// functions.
func closeAll(links []link.Link) {
	var wg sync.WaitGroup
	for _, l := range links {
		wg.Go(func() { l.Close() })
	}
	wg.Wait()
}

// attached is what came of attaching a group again.
type attached struct {
	group string
	links map[string][]link.Link // by hook row
	err   error
}

// attach attaches the hooks of a group that was detached. The returned function
// does it, on any goroutine; attachedAgain takes what it returns.
func (p *programs) attach(group string) (do func() attached) {
	type hook struct {
		row HookRow
		at  Attachment
	}
	var hooks []hook
	for _, row := range Hooks {
		if row.Group != group {
			continue
		}
		for _, a := range row.Attach {
			if p.running[row.Name] != nil && a.Backend == p.backends[row.Name] {
				hooks = append(hooks, hook{row, a})
			}
		}
	}
	return func() attached {
		done := attached{group: group, links: map[string][]link.Link{}}
		for _, h := range hooks {
			for _, prog := range p.running[h.row.Name] {
				links, err := h.at.link(prog)
				done.links[h.row.Name] = append(done.links[h.row.Name], links...)
				if err != nil {
					done.err = errors.Join(done.err, fmt.Errorf("hook %s: %w", h.row.Name, err))
				}
			}
		}
		return done
	}
}

func (p *programs) attachedAgain(a attached) {
	for row, links := range a.links {
		p.links[row] = links
	}
	if a.err == nil {
		delete(p.shed, a.group)
	}
}
