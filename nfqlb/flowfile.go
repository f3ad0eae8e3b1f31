// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
)

// The flows live in the balancer's memory; its tables live in files. So that a
// balancer that starts again decides as before, the flows are kept in a file,
// too: a line with a checksum, then the flows as flow-list prints them, in the
// order they were set.

const flowFileHead = "waymark-flows 1 crc32c %08x\n"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeFlowFile(specs []FlowSpec) []byte {
	flows := make([]FlowStatus, len(specs))
	for i, spec := range specs {
		flows[i].FlowSpec = spec
	}
	return sealFlowFile(FormatFlows(flows))
}

func sealFlowFile(list []byte) []byte {
	return append(fmt.Appendf(nil, flowFileHead, crc32.Checksum(list, castagnoli)), list...)
}

// decodeFlowFile reads a file whole or not at all: half of the flows would
// send packets elsewhere.
func decodeFlowFile(data []byte) ([]FlowSpec, error) {
	head, list, ok := bytes.Cut(data, []byte("\n"))
	var sum uint32
	if n, err := fmt.Sscanf(string(head)+"\n", flowFileHead, &sum); !ok || err != nil || n != 1 {
		return nil, errors.New("it is no file of flows, or of a later version")
	}
	if sum != crc32.Checksum(list, castagnoli) {
		return nil, errors.New("its checksum is wrong: it was changed or damaged")
	}
	flows, err := ParseFlows(list)
	if err != nil {
		return nil, err
	}
	specs := make([]FlowSpec, len(flows))
	for i, f := range flows {
		if _, err := compileFlow(f.FlowSpec); err != nil {
			return nil, fmt.Errorf("flow %q: %w", f.Name, err)
		}
		specs[i] = f.FlowSpec
	}
	return specs, nil
}
