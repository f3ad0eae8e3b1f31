// SPDX-License-Identifier: Apache-2.0

// Export into a directory.

package decoder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// ExportDir exports the recording in to files in dir, which it makes if
// needed. Files of an earlier export are replaced. If two devices would share
// a file name, the second has its node in front. It refuses to replace the
// recording itself.
func ExportDir(in *os.File, o ExportOptions, dir string) (ExportResult, error) {
	source, err := in.Stat()
	if err != nil {
		return ExportResult{}, err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return ExportResult{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return ExportResult{}, err
	}
	defer root.Close()
	used := map[string]bool{}
	return Export(in, o, func(f ExportFile) (io.WriteCloser, error) {
		name := unusedName(used, f)
		used[name] = true
		if there, err := root.Stat(name); err == nil && os.SameFile(there, source) {
			return nil, fmt.Errorf("%s is the recording itself: give another --dir", filepath.Join(dir, name))
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return root.Create(name)
	})
}

// unusedName is f's file name, made different from those used.
func unusedName(used map[string]bool, f ExportFile) string {
	name := f.FileName()
	if used[name] && f.Node != "" {
		f.Name = f.Node + "/" + f.Name
		name = f.FileName()
	}
	plain := f.Name
	for n := 2; used[name]; n++ {
		f.Name = plain + "-" + strconv.Itoa(n)
		name = f.FileName()
	}
	return name
}
