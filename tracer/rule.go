// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"bytes"

	"waymark/bpf"
	"waymark/decoder"
	"waymark/tracer/place"
)

// netfilterRule names a rule of nftables for ever.
type netfilterRule struct {
	netns       uint32
	table, rule uint64 // handles
}

// maxRules bounds those that are remembered as told; after that they are told
// again.
const maxRules = 1 << 14

// needsRule tells the sink of the rule that decided about a packet, the first
// time. One that is gone by now stays a number.
func (s *stream) needsRule(r *bpf.Record, raw []byte) error {
	x, err := bpf.DecodeExt[bpf.NetfilterExt](r.Ext(raw))
	if err != nil {
		return err
	}
	id := netfilterRule{r.Netns, x.TableHandle, x.Rule}
	t := s.places[r.Netns]
	if x.Rule == 0 || s.rules[id] || t == nil || t.ns.Path == "" {
		return nil
	}
	if len(s.rules) == maxRules {
		clear(s.rules)
	}
	s.rules[id] = true
	rule, err := place.ReadNetfilterRule(t.ns, x.TableHandle, x.Rule, wholeName(x.Chain[:]))
	if err != nil {
		s.opts.Log.Debug().Err(err).Msg("a netfilter rule could not be read")
		return nil
	}
	return s.context(&decoder.Context{NetfilterRule: rule})
}

// wholeName is a name that ends within its field; empty if it may be cut off.
func wholeName(field []byte) string {
	if i := bytes.IndexByte(field, 0); i < len(field)-1 {
		return string(field[:max(i, 0)])
	}
	return ""
}
