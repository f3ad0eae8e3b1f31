// SPDX-License-Identifier: Apache-2.0

// What a recording holds back until there is a packet to ride on.

package decoder

import (
	"fmt"

	"waymark/decoder/pcapng"
)

// maxHeld bounds what is held back, in bytes.
const maxHeld = 1 << 20

// held is payloads in their order, one behind the other.
type held struct {
	bytes  []byte
	ends   []int // where each payload ends in bytes
	custom []pcapng.CustomOption
	// tells: it has more than what explains packets to come, so that a recorder that
	// is killed now must not lose it.
	tells bool
}

// options are the payloads as options. They hold until the next change.
func (h *held) options() []pcapng.CustomOption {
	h.custom = h.custom[:0]
	start := 0
	for _, end := range h.ends {
		h.custom = append(h.custom, pcapng.CustomOption{PEN: recordingPEN, Data: h.bytes[start:end]})
		start = end
	}
	return h.custom
}

func (h *held) reset() { h.bytes, h.ends, h.tells = h.bytes[:0], h.ends[:0], false }

// hold keeps a payload whose content is a and b for the next packet.
func (r *Recorder) hold(head recordingHeader, a, b []byte) error {
	if len(a)+len(b) > maxContent {
		return r.writeBlock(head, a)
	}
	if len(r.held.bytes)+len(a)+len(b) > maxHeld {
		if err := r.release(true); err != nil {
			return err
		}
	}
	h := &r.held
	h.bytes = appendPayloadHead(h.bytes, head, len(a)+len(b))
	h.bytes = append(h.bytes, a...)
	h.bytes = append(h.bytes, b...)
	h.ends = append(h.ends, len(h.bytes))
	h.tells = h.tells || head.kind == kindRecord
	return nil
}

// release writes what is held without a packet: in statistics of an interface,
// or, if there is none yet and it cannot wait, in custom blocks. Programs that
// rewrite captures leave these out, so what only explains packets to come waits for
// the first of them.
func (r *Recorder) release(now bool) error {
	if len(r.held.ends) == 0 || !now && !r.held.tells {
		return nil
	}
	at, err := r.carrier()
	if err != nil {
		return err
	}
	options := r.held.options()
	switch {
	case at != nil:
		err = r.out.Statistics(&pcapng.Statistics{
			Interface: at.number, Time: r.streamTime + uint64(r.wallOffset), Custom: options,
		})
	case now:
		for i := 0; i < len(options) && err == nil; i++ {
			err = r.out.Custom(&pcapng.Custom{PEN: recordingPEN, Data: options[i].Data})
		}
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("write recording: %w", err)
	}
	r.held.reset()
	return nil
}

// carrier is the interface whose statistics carry what is held: the first, or,
// before there is one, the first device that a context named. Nil if there is
// neither.
func (r *Recorder) carrier() (*recordedPlace, error) {
	if len(r.inOrder) > 0 {
		return r.inOrder[0], nil
	}
	if r.firstDevice == nil {
		return nil, nil
	}
	return r.describe(recordedPlaceID{recordedDevice: recordedDevice{r.firstDevice.Netns, r.firstDevice.Index}})
}

// writeBlock writes a payload that is too long for an option.
func (r *Recorder) writeBlock(head recordingHeader, content []byte) error {
	if err := r.release(true); err != nil {
		return err
	}
	p := append(appendPayloadHead(nil, head, len(content)), content...)
	if err := r.out.Custom(&pcapng.Custom{PEN: recordingPEN, Data: p}); err != nil {
		return fmt.Errorf("write recording: %w", err)
	}
	return nil
}
