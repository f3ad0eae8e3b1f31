// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// The flow list as JSON. Scripts read what nfqlb prints line by line, so it is
// laid out as nfqlb lays it out.

// FormatFlows is the list of flows, an array.
func FormatFlows(flows []FlowStatus) []byte {
	var b bytes.Buffer
	b.WriteByte('[')
	for i, f := range flows {
		if i > 0 {
			b.WriteString(",\n")
		}
		b.Write(FormatFlow(f))
	}
	b.WriteString("]\n")
	return b.Bytes()
}

// FormatFlow is one flow, an object.
func FormatFlow(f FlowStatus) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n  \"name\": %s,\n  \"priority\": %d", quote(f.Name), f.Priority)
	if len(f.Protocols) > 0 {
		var quoted []string
		for _, p := range f.Protocols {
			quoted = append(quoted, quote(p))
		}
		fmt.Fprintf(&b, ",\n  \"protocols\": [ %s ]", strings.Join(quoted, ", "))
	}
	for _, l := range []struct {
		key  string
		list []string
	}{{"dests", f.Dests}, {"dports", f.DPorts}, {"srcs", f.Srcs}, {"sports", f.SPorts}, {"match", f.Match}} {
		if len(l.list) == 0 {
			continue
		}
		fmt.Fprintf(&b, ",\n  %q: [\n", l.key)
		for i, s := range l.list {
			if i > 0 {
				b.WriteString(",\n")
			}
			b.WriteString("    " + quote(s))
		}
		b.WriteString("\n  ]")
	}
	if f.UDPEncap > 0 {
		fmt.Fprintf(&b, ",\n  \"udpencap\": %d", f.UDPEncap)
	}
	fmt.Fprintf(&b, ",\n  \"matches_count\": %d", f.MatchesCount)
	if f.Target != "" { // a trace-flow has none
		fmt.Fprintf(&b, ",\n  \"user_ref\": %s", quote(f.Target))
	}
	b.WriteString("\n}")
	return b.Bytes()
}

// FormatNames is the list of the flows' names.
func FormatNames(flows []FlowStatus) []byte {
	if len(flows) == 0 {
		return []byte("[]\n")
	}
	var quoted []string
	for _, f := range flows {
		quoted = append(quoted, "  "+quote(f.Name))
	}
	return []byte("[\n" + strings.Join(quoted, ",\n") + "\n]\n")
}

// quote is s as a JSON string; & and < stay as they are.
func quote(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil { // a string always encodes
		panic(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// ParseFlows reads a flow list of this balancer or of nfqlb, or the one flow
// that a list by name gives. No output at all is an empty list.
func ParseFlows(data []byte) ([]FlowStatus, error) {
	data = bytes.TrimRight(bytes.TrimSpace(data), "\x00")
	if len(data) == 0 {
		return nil, nil
	}
	if data[0] == '{' {
		data = append(append([]byte{'['}, data...), ']')
	}
	var list []listedFlow
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("flow list of the balancer: %w", err)
	}
	flows := make([]FlowStatus, len(list))
	for i, l := range list {
		l.FlowStatus.Match = l.Match
		flows[i] = l.FlowStatus
	}
	return flows, nil
}

// listedFlow takes match as a list or as one comma-separated string.
type listedFlow struct {
	FlowStatus
	Match stringList `json:"match"`
}

type stringList []string

func (l *stringList) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		*l = strings.Split(s, ",")
		return nil
	}
	return json.Unmarshal(data, (*[]string)(l))
}
