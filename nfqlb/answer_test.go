// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

// FuzzAnswer gives a balancer with a flow a request: one that is refused changes
// nothing, one that is taken leaves lists that can be read.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"action:set\nname:a\ntarget:t\npriority:1\nprotocols:tcp\ndports:1-2\neoc:\n",
		"action:set\nname:b\ntarget:none\neoc:\n",
		"action:set\nname:s\ntarget:t\nprotocols:sctp\nudpencap:9899\neoc:\n",
		"action:delete\nname:a\neoc:\n", "action:delete\neoc:\n", "action:list\nname:a\neoc:\n", "action:list-names\neoc:\n",
		"action:trace-set\nname:x\nsrcs:::/0\neoc:\n", "action:trace-delete\nname:x\neoc:\n", "action:trace-list\neoc:\n",
		"action:dance\neoc:\n", "eoc:\n", "action:set\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		b := NewBalancer(Config{}, func(name string) (*Table, error) {
			if name != "t" {
				return nil, errors.New("no such table")
			}
			return NewTable(7, 1, []int{5})
		})
		if err := b.SetFlow(FlowSpec{Name: "a", Target: "t", Dests: []string{"10.0.0.1/32"}}); err != nil {
			t.Fatal(err)
		}
		before, traced := b.Flows(""), b.TraceFlows("")
		cmd, err := ReadCommand(bytes.NewReader(request))
		if err != nil {
			return // the server answers with the error
		}
		answer := b.answer(cmd)
		if bytes.HasPrefix(answer, []byte("FAIL")) && (!reflect.DeepEqual(b.Flows(""), before) || !reflect.DeepEqual(b.TraceFlows(""), traced)) {
			t.Fatalf("%q was refused and changed the flows: %s", request, answer)
		}
		if list := FormatFlows(b.Flows("")); !json.Valid(list) {
			t.Fatalf("after %q the list is no JSON: %s", request, list)
		}
	})
}
