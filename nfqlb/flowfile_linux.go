// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// FlowFile is where a balancer in the calling thread's network namespace keeps
// its flows if nothing else is said: a file in ShmDir, beside the tables that
// they name. The name has the namespace's cookie in it, a number that the
// kernel gives no second namespace until the machine, and with it the file, is
// started anew. The error wraps ENOPROTOOPT before Linux 5.14.
func FlowFile() (string, error) {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("cookie of the network namespace: %w", err)
	}
	defer unix.Close(s)
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return "", fmt.Errorf("cookie of the network namespace: %w", err)
	}
	return filepath.Join(ShmDir, "nfqlb-flows-"+strconv.FormatUint(cookie, 10)), nil
}

// maxFlowFile bounds what is read: some ten thousand flows.
const maxFlowFile = maxReply

// KeptFlows are the flows in a file that KeepFlows wrote; none if there is no
// file. The file must be the caller's or root's: others can write in ShmDir.
func KeptFlows(path string) ([]FlowSpec, error) {
	specs, err := keptFlows(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("flows kept in %s: %w", path, err)
	}
	return specs, nil
}

func keptFlows(path string) ([]FlowSpec, error) {
	// Opening a pipe that somebody put there must not wait.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var info unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &info); err != nil {
		return nil, err
	}
	if info.Mode&unix.S_IFMT != unix.S_IFREG || info.Uid != 0 && info.Uid != uint32(os.Geteuid()) {
		return nil, errors.New("it is no file of root or of this user")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFlowFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFlowFile {
		return nil, fmt.Errorf("it has more than %d bytes", maxFlowFile)
	}
	return decodeFlowFile(data)
}

// KeepFlows makes b write its flows to a file whenever they change, before the
// change is confirmed. The flows are in force even if that fails; failed is
// told.
func (b *Balancer) KeepFlows(path string, failed func(error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep = func(specs []FlowSpec) {
		if err := replaceFile(path, encodeFlowFile(specs)); err != nil {
			failed(fmt.Errorf("flows are not kept in %s: %w", path, err))
		}
	}
}

// replaceFile puts a file in place as a whole: a reader sees the old or the
// new one, and so does whoever reads it after a crash. Its mode is 0600, as
// nfqlb's.
func replaceFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".waymark-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
