// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"waymark/decoder"
)

// exportHTML makes a page of recordings. What is whole of damaged ones is on the
// page, which says so.
func exportHTML(paths []string, path string, o replayOptions) error {
	var names []string
	for _, name := range paths {
		if err := notItself(name, path); err != nil {
			return err
		}
		names = append(names, filepath.Base(name))
	}
	sources, closeAll, err := openSources(paths)
	defer closeAll()
	if err != nil {
		return err
	}
	tellGaps(sources)
	var recordings []*decoder.Recording
	for _, s := range sources {
		recordings = append(recordings, &decoder.Recording{In: s.files[0], Then: s.rest(), Options: o.decoder()})
	}
	out := &pageFile{path: path}
	page := decoder.NewHTMLWriter(out, decoder.HTMLOptions{Title: strings.Join(names, ", ")})
	for _, r := range recordings {
		r.Contexts = page.Source()
	}
	var written error // first error
	for t := range decoder.Merge(recordings) {
		if t.Journey == nil {
			continue
		}
		if written = page.Journey(t.Journey); written != nil {
			break
		}
	}
	var damage error
	for i, r := range recordings {
		last := sources[i].paths[len(r.Before)] // that was read
		if r.Err != nil && r.Result.Records == 0 && len(r.Before) == 0 {
			return fmt.Errorf("%s: %w", last, r.Err)
		}
		for k, result := range append(r.Before, r.Result) {
			if result.Truncated {
				fmt.Fprintf(os.Stderr, "waymark: %s is cut off at byte %d: exported up to there\n", sources[i].paths[k], result.Offset)
				page.Note(filepath.Base(sources[i].paths[k]) + " is cut off: the page tells what came before")
			}
		}
		notePage(page, last, r)
		if r.Err != nil && damage == nil {
			damage = fmt.Errorf("%s: %w", last, r.Err)
		}
	}
	if written == nil {
		written = page.Close()
	}
	if err := errors.Join(written, out.close()); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	if damage != nil {
		return damage
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

// notePage says on the page what it cannot tell of the recording.
func notePage(page *decoder.HTMLWriter, path string, r *decoder.Recording) {
	name := filepath.Base(path)
	if r.Err != nil {
		page.Note(name + " is damaged: the page tells what came before that")
	}
	if s := r.Status; s != nil && (s.Lost > 0 || s.Untracked > 0) {
		page.Note(fmt.Sprintf("in %s, %d records were lost and %d packets could not be followed: packets that this may concern say so", name, s.Lost, s.Untracked))
	}
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
