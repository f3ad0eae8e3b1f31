// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"waymark/decoder"
)

// exportHTML makes a page of a recording. What is whole of a damaged one is on
// the page, which says so.
func exportHTML(recording, path string) error {
	in, err := os.Open(recording)
	if err != nil {
		return fmt.Errorf("open the recording: %w", err)
	}
	defer in.Close()
	source, err := in.Stat()
	if err != nil {
		return fmt.Errorf("open the recording: %w", err)
	}
	if there, err := os.Stat(path); err == nil && os.SameFile(there, source) {
		return fmt.Errorf("%s is the recording itself: name another file for the page", path)
	}
	out := &pageFile{path: path}
	page := decoder.NewHTMLWriter(out, decoder.HTMLOptions{Title: filepath.Base(recording)})
	var written error // first error
	keep := func(err error) {
		if written == nil {
			written = err
		}
	}
	s := newStitcher(decoder.Options{Emit: func(j *decoder.Journey) { keep(page.Journey(j)) }})
	result, damage := decoder.Replay(in, pageSink{s, page})
	s.Flush()
	if damage != nil && result.Records == 0 {
		return fmt.Errorf("%s: %w", recording, damage)
	}
	if result.Truncated {
		fmt.Fprintf(os.Stderr, "waymark: %s is cut off at byte %d: exported up to there\n", recording, result.Offset)
		page.Note("the recording is cut off: the page tells what came before")
	}
	if damage != nil {
		page.Note("the recording is damaged: the page tells what came before that")
	}
	if st := s.Stats(); st.Lost > 0 || st.Untracked > 0 {
		page.Note(fmt.Sprintf("%d records were lost and %d packets could not be followed: packets that this may concern say so", st.Lost, st.Untracked))
	}
	keep(page.Close())
	if err := errors.Join(written, out.close()); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	if damage != nil {
		return fmt.Errorf("%s: %w", recording, damage)
	}
	shown, left := page.Journeys()
	fmt.Printf("%s: %d packet", path, shown)
	if shown != 1 {
		fmt.Print("s")
	}
	if left > 0 {
		fmt.Printf(", %d more are left out", left)
	}
	fmt.Println("; open it in a browser")
	return nil
}

// pageSink gives a recording's stream to the stitcher and the page.
type pageSink struct {
	s *decoder.Stitcher
	p *decoder.HTMLWriter
}

// Record implements decoder.Sink.
func (k pageSink) Record(raw []byte) error { return k.s.Record(raw) }

// Context implements decoder.Sink. The page knows a device before the journeys
// that the stitcher ends with this context.
func (k pageSink) Context(c *decoder.Context) error {
	return errors.Join(k.p.Context(c), k.s.Context(c))
}

// pageFile is made when its first bytes come: what is no recording costs no
// older page.
type pageFile struct {
	path string
	f    *os.File
}

func (p *pageFile) Write(b []byte) (int, error) {
	if p.f == nil {
		f, err := os.Create(p.path)
		if err != nil {
			return 0, err
		}
		p.f = f
	}
	return p.f.Write(b)
}

func (p *pageFile) close() error {
	if p.f == nil {
		return nil
	}
	return p.f.Close()
}
