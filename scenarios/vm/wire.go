// SPDX-License-Identifier: Apache-2.0

// What host and guest say to each other over the second serial port: frames of
// a magic byte, a type, a length (4 bytes, big endian) and that many bytes.

package vm

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

type frameType byte

// Guest to host, except frameStop.
const (
	frameHello    frameType = 'h' // init is up: release of the kernel
	frameStarted  frameType = 's' // the payload runs
	frameStdout   frameType = '1'
	frameStderr   frameType = '2'
	frameNote     frameType = 'n' // a remark of init's, for the host's log
	frameFile     frameType = 'f' // a collected file begins: fileHead as JSON
	frameFileData frameType = 'd'
	frameExit     frameType = 'x' // the end: exitReport as JSON
	frameStop     frameType = 'q' // host to guest: the time is up
	frameStopping frameType = 'a' // the guest's answer to frameStop
)

const (
	frameMagic = 0xA7
	// frameMax bounds what a broken stream can make the host allocate.
	frameMax = 1 << 20
	// frameChunk is how much output or file content goes into one frame.
	frameChunk = 32 << 10
)

// exitReport ends a run. Error is set when the payload could not be started.
type exitReport struct {
	Code   int    `json:"code"`             // exit status, or 128+signal
	Signal string `json:"signal,omitempty"` // name of the signal that ended it
	Error  string `json:"error,omitempty"`
}

// fileHead announces a collected file: Size bytes follow in frameFileData.
type fileHead struct {
	Index int    `json:"index"` // into guestConfig.Collect
	Rel   string `json:"rel"`   // below the collected path; "." for itself
	Size  int64  `json:"size"`
	Perm  uint32 `json:"perm"`
}

// guestConfig is what init finds in the initramfs at guestConfigPath.
type guestConfig struct {
	Argv    []string `json:"argv"`
	Env     []string `json:"env"`
	Dir     string   `json:"dir"`
	Modules []string `json:"modules"`
	Collect []string `json:"collect"`
}

const guestConfigPath = "/etc/waymark-guest.json"

// frameWriter writes whole frames, from any goroutine.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frameWriter) send(t frameType, data []byte) error {
	b := make([]byte, 6, 6+len(data))
	b[0], b[1] = frameMagic, byte(t)
	binary.BigEndian.PutUint32(b[2:], uint32(len(data)))
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.w.Write(append(b, data...))
	return err
}

func (f *frameWriter) sendJSON(t frameType, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.send(t, b)
}

// readFrame reads the next frame; io.EOF means the stream ended between two.
func readFrame(r io.Reader) (frameType, []byte, error) {
	var head [6]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[2:])
	if head[0] != frameMagic || size > frameMax {
		return 0, nil, fmt.Errorf("guest stream is not in frames (got % x): something else writes to its second serial port", head)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return 0, nil, fmt.Errorf("guest stream ends inside a frame: %w", err)
	}
	return frameType(head[1]), data, nil
}
