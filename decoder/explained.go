// SPDX-License-Identifier: Apache-2.0

package decoder

import "waymark/bpf"

// maxExplained bounds the explanations kept at a time.
const maxExplained = 1024

// explained keeps why packets were lost, for the next ones like them: of a flood
// each is lost for the same reason, and to find that takes longer than all else.
type explained struct {
	known   map[lossKey]lossText
	changes uint64 // of the world, when they were found
}

// lossKey is all that an explanation depends on, of a packet of which nothing
// but its end was seen.
type lossKey struct {
	rec  bpf.Record // without what is of no account, see keyOfLoss
	view *view
	lb   LBDecision
}

type lossText struct{ because, advice, question string }

func keyOfLoss(f *dropFacts) lossKey {
	k := lossKey{rec: *f.rec, view: f.e.view}
	if f.lb != nil {
		k.lb = *f.lb
	}
	r := &k.rec
	r.TimeNs, r.Trail, r.Parent, r.Skb, r.Pid, r.Cpu = 0, 0, 0, 0, 0, 0
	r.Seq, r.Ack, r.IpId, r.Equal = 0, 0, 0, 0
	return k
}

// explain fills in because, advice and question of a loss.
func (x *explained) explain(f *dropFacts, d *Drop) {
	if len(f.b.o.events) > 1 {
		explainDrop(f, d)
		return
	}
	if now := f.b.w.changes; x.known == nil || x.changes != now || len(x.known) == maxExplained {
		x.known, x.changes = map[lossKey]lossText{}, now
	}
	k := keyOfLoss(f)
	t, ok := x.known[k]
	if !ok {
		explainDrop(f, d)
		x.known[k] = lossText{d.Because, d.Advice, d.Question}
		return
	}
	d.Because, d.Advice, d.Question = t.because, t.advice, t.question
}
