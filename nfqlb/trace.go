// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Tracing, nfqlb's way: a client writes what it wants to see as a mask to a
// shared file and connects to the trace socket, where it gets text until it
// hangs up. nfqlb serves one client at a time, this package several, each with
// the mask that stood in the file when it came.

// TraceMask says what a trace client wants to see.
type TraceMask uint32

// The bits of a mask are nfqlb's.
const (
	TraceLog      TraceMask = 1 << iota // what the balancer logs
	TracePacket                         // every packet and its mark
	TraceFrag                           // every fragment
	TraceFlowConf                       // answers to changes of flows
	TraceSCTP                           // SCTP packets, and those inside UDP
	TraceTarget                         // tables that are taken up, change and go
	TraceFlows                          // packets that match a trace-flow
)

var traceNames = []string{"log", "packet", "frag", "flow-conf", "sctp", "target", "flows"}

// ParseTraceSelection reads names from a list like "log,flows".
func ParseTraceSelection(s string) (TraceMask, error) {
	var mask TraceMask
names:
	for _, name := range strings.Split(s, ",") {
		for i, n := range traceNames {
			if n == name {
				mask |= 1 << i
				continue names
			}
		}
		return 0, fmt.Errorf("%q cannot be traced; there are %s", name, strings.Join(traceNames, ","))
	}
	return mask, nil
}

// TraceConfig is the content of the shared file: nfqlb's struct LogConfig, two
// numbers of 32 bits in the machine's byte order.
type TraceConfig struct {
	LogLevel int // 3 errors, 4 warnings, 5 notices, 6 information, 7 everything
	Mask     TraceMask
}

// TraceName is the shared file's name below ShmDir.
const TraceName = "nfqlb-trace"

// Log levels (syslog(3)'s).
const (
	LogError   = 3
	LogWarning = 4
	LogNotice  = 5
	LogInfo    = 6
	LogDebug   = 7
)

const traceConfigSize = 8

func parseTraceConfig(b []byte) (TraceConfig, error) {
	if len(b) < traceConfigSize {
		return TraceConfig{}, fmt.Errorf("no trace settings: %d bytes instead of %d", len(b), traceConfigSize)
	}
	return TraceConfig{
		LogLevel: int(int32(binary.NativeEndian.Uint32(b))),
		Mask:     TraceMask(binary.NativeEndian.Uint32(b[4:])),
	}, nil
}

func (c TraceConfig) encode() []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(int32(c.LogLevel)))
	return binary.NativeEndian.AppendUint32(b, uint32(c.Mask))
}
