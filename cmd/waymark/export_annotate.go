// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"waymark/decoder"
)

// exportAnnotated writes a recording again, with journeys as comments. It reads it
// twice at the same time: for the packets, and for what is known of them.
func exportAnnotated(recording, path string) error {
	var in [2]*os.File
	for i := range in {
		f, err := openSource(recording)
		if err != nil {
			return fmt.Errorf("open the recording: %w", err)
		}
		defer f.Close()
		in[i] = f
	}
	if err := notItself(recording, path); err != nil {
		return err
	}
	r := &decoder.Recording{In: in[1], Options: (&replayOptions{}).decoder()}
	out := &pageFile{path: path}
	result, err := decoder.Annotate(in[0], decoder.Merge([]*decoder.Recording{r}), out)
	if r.Err != nil {
		err = r.Err // the same, and better said
	}
	if err := errors.Join(err, out.close()); err != nil {
		return fmt.Errorf("%s: %w", recording, err)
	}
	if result.Truncated {
		fmt.Fprintf(os.Stderr, "waymark: %s is cut off: exported up to there\n", recording)
	}
	fmt.Printf("%s: %d packets, %d with a journey\n", path, result.Packets, result.Found)
	return nil
}

// notItself refuses a path that is the recording that is read.
func notItself(recording, path string) error {
	source, err := os.Stat(recording)
	if err != nil {
		return nil // no file: a scenario, or what opening it says
	}
	if there, err := os.Stat(path); err == nil && os.SameFile(there, source) {
		return fmt.Errorf("%s is the recording itself: name another file", path)
	}
	return nil
}
