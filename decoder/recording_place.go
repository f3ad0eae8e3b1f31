// SPDX-License-Identifier: Apache-2.0

// The interfaces of a recording: one per node, namespace and device, described
// when the first packet needs it.

package decoder

import (
	"fmt"

	"waymark/bpf"
	"waymark/decoder/pcapng"
)

// recordedPlaceID is what a record says about where the packet was.
type recordedPlaceID struct {
	recordedDevice
	l3   bool
	long bool // longer than the session's snaplen
}

// recordedPlace is an interface block.
type recordedPlace struct {
	number      int
	name        string
	packets     uint64
	first, last uint64 // packet times, wall clock ns
}

// place returns the interface of r.record, which it describes first if it is
// new. snapshot is the length of the packet's bytes.
func (r *Recorder) place(snapshot int) (*recordedPlace, error) {
	id := recordedPlaceID{
		recordedDevice: recordedDevice{r.record.Netns, r.record.Ifindex},
		l3:             r.record.Flags&bpf.FlagL3 != 0,
		long:           r.snapLen > 0 && snapshot > r.snapLen,
	}
	if r.last != nil && id == r.lastID {
		return r.last, nil
	}
	at := r.places[id]
	if at == nil {
		var err error
		if at, err = r.describe(id); err != nil {
			return nil, err
		}
		r.places[id] = at
	}
	r.last, r.lastID = at, id
	return at, nil
}

func (r *Recorder) describe(id recordedPlaceID) (*recordedPlace, error) {
	i := pcapng.Interface{
		LinkType:    pcapng.LinkEthernet,
		Name:        r.now.interfaceName(id.recordedDevice),
		Description: r.now.interfaceDescription(id.netns, id.l3),
		TSResol:     pcapng.NanoResolution,
	}
	if r.now.kernel != "" {
		i.OS = "Linux " + r.now.kernel
	}
	if id.l3 {
		i.LinkType = pcapng.LinkRaw
	}
	if r.snapLen > 0 && !id.long {
		i.SnapLen = uint32(r.snapLen) + vlanTag
	}
	key := fmt.Sprintf("%d %d %q %q", i.LinkType, i.SnapLen, i.Name, i.Description)
	if at := r.described[key]; at != nil {
		return at, nil
	}
	number, err := r.out.Interface(&i)
	if err != nil {
		return nil, fmt.Errorf("describe interface %s: %w", i.Name, err)
	}
	at := &recordedPlace{number: number, name: i.Name}
	r.described[key] = at
	r.inOrder = append(r.inOrder, at)
	return at, nil
}

func (p *recordedPlace) count(t uint64) {
	if p.packets == 0 {
		p.first, p.last = t, t
	}
	p.packets++
	p.first, p.last = min(p.first, t), max(p.last, t)
}
