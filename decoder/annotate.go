// SPDX-License-Identifier: Apache-2.0

// A recording with what its journeys tell in the comments of its packets: for
// Wireshark, which knows no journeys.

package decoder

import (
	_ "embed" // of the script
	"errors"
	"fmt"
	"io"
	"iter"

	"waymark/decoder/pcapng"
)

// WiresharkLua is a script for Wireshark and tshark that makes fields of the
// comments that Recorder and Annotate write.
//
//go:embed wireshark.lua
var WiresharkLua string

// AnnotateResult says what was annotated.
type AnnotateResult struct {
	Packets uint64
	// Found counts packets that have a journey.
	Found     uint64
	Truncated bool // the recording is cut off, see ReplayResult
}

// Annotate copies the recording in to out. Each packet has as further comments
// the journey it belongs to and how that ended, what was decided since the packet
// before, and at the last one why it was lost. told is what Merge gives of the
// same recording. The copy replays as the recording does.
func Annotate(in io.Reader, told iter.Seq[Told], out io.Writer) (AnnotateResult, error) {
	return annotate(in, told, pcapng.NewWriter(out, 0))
}

func annotate(in io.Reader, told iter.Seq[Told], w *pcapng.Writer) (AnnotateResult, error) {
	var result AnnotateResult
	finder := newJourneyFinder(told)
	defer finder.stop()
	r := pcapng.NewReader(in)
	for {
		b, err := r.Next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, pcapng.ErrTruncated):
			result.Truncated = !errors.Is(err, io.EOF)
			return result, w.Flush()
		case err != nil:
			return result, errors.Join(err, w.Flush())
		case b.Section != nil:
			err = w.Section(b.Section)
		case b.Interface != nil:
			_, err = w.Interface(b.Interface)
		case b.Statistics != nil:
			err = w.Statistics(b.Statistics)
		case b.Custom != nil:
			err = w.Custom(b.Custom)
		case b.Packet != nil:
			p := b.Packet
			iface := r.Interfaces()[p.Interface]
			p.Comments = p.Comments[:min(1, len(p.Comments))] // of an annotated one, its own
			if j := finder.find(p, iface); j != nil {
				p.Comments = j.comments(p.Comments, p, iface)
				result.Found++
			}
			result.Packets++
			err = w.Packet(p)
		}
		if err != nil {
			return result, fmt.Errorf("annotate: %w", err)
		}
	}
}
