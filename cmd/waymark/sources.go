// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"

	"waymark/decoder"
)

// source is one recording: a file, or those that are parts of it, in order.
type source struct {
	paths []string
	files []*os.File
	of    string // which recording they are parts of; empty: it is a whole one
	first int    // number of the first part
}

// rest are the parts behind the first one.
func (s *source) rest() (rest []io.Reader) {
	for _, f := range s.files[1:] {
		rest = append(rest, f)
	}
	return rest
}

// next is the number of the part that would come behind.
func (s *source) next() int { return s.first + len(s.files) }

// openSources opens recordings. Parts of one recording that follow each other are
// one source, wherever they are in paths.
func openSources(paths []string) (sources []*source, closeAll func(), err error) {
	var files []*os.File
	closeAll = func() {
		for _, f := range files {
			f.Close()
		}
	}
	for _, path := range paths {
		f, err := openSource(path)
		if err != nil {
			return nil, closeAll, fmt.Errorf("open the recording: %w", err)
		}
		files = append(files, f)
		s := &source{paths: []string{path}, files: []*os.File{f}}
		if s.of, s.first, err = partOf(f); err != nil {
			return nil, closeAll, fmt.Errorf("open the recording: %w", err)
		}
		sources = append(sources, s)
	}
	return joinParts(sources), closeAll, nil
}

// partOf reads which part of which recording a file is. What cannot be read twice
// is taken for a whole one, and what is no recording is left to who replays it.
func partOf(f *os.File) (recording string, part int, err error) {
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", 0, nil
	}
	session, err := decoder.ReadSession(f)
	if _, seekErr := f.Seek(0, io.SeekStart); seekErr != nil {
		return "", 0, seekErr
	}
	if err != nil || session == nil || session.Part == 0 {
		return "", 0, nil
	}
	return session.Recording, session.Part, nil
}

// joinParts makes one source of parts that follow each other, at the place of the
// first of them in the order they were given.
func joinParts(sources []*source) (joined []*source) {
	inOrder := slices.Clone(sources)
	slices.SortStableFunc(inOrder, func(a, b *source) int { return cmp.Or(cmp.Compare(a.of, b.of), cmp.Compare(a.first, b.first)) })
	var last *source
	taken := map[*source]*source{}
	for _, s := range inOrder {
		if last != nil && s.of != "" && s.of == last.of && s.first == last.next() {
			last.paths, last.files = append(last.paths, s.paths...), append(last.files, s.files...)
			taken[s] = last
			continue
		}
		last = s
		taken[s] = s
	}
	for _, s := range sources {
		if whole := taken[s]; !slices.Contains(joined, whole) {
			joined = append(joined, whole)
		}
	}
	return joined
}

// tellGaps says which parts between those that were given are missing.
func tellGaps(sources []*source) {
	for _, s := range sources {
		for _, o := range sources {
			if s.of == "" || o.of != s.of || o.first <= s.next() || slices.ContainsFunc(sources, func(x *source) bool {
				return x.of == s.of && x.first >= s.next() && x.first < o.first
			}) {
				continue
			}
			fmt.Fprintf(os.Stderr, "waymark: between %s and %s %d files of the recording are missing: they are told as two\n",
				s.paths[len(s.paths)-1], o.paths[0], o.first-s.next())
		}
	}
}
