// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"encoding/json"
	"io"
)

// Writer prints what a trace finds. TextWriter and JSONWriter are writers.
type Writer interface {
	Journey(*Journey) error
	Drop(*Drop) error
	Drops(*DropCount) error
	Totals(*DropTable) error
	Flow(*FlowSummary) error
	Unanswered(*Unanswered) error
	Status(*Status) error
}

// JSONWriter writes one JSON object per line.
type JSONWriter struct{ enc *json.Encoder }

// NewJSONWriter returns a writer to w; it does not buffer.
func NewJSONWriter(w io.Writer) *JSONWriter {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return &JSONWriter{enc}
}

// Journey implements Writer.
func (w *JSONWriter) Journey(j *Journey) error { return w.enc.Encode(j) }

// Drop implements Writer.
func (w *JSONWriter) Drop(d *Drop) error { return w.enc.Encode(d) }

// Drops implements Writer.
func (w *JSONWriter) Drops(c *DropCount) error { return w.enc.Encode(c) }

// Totals implements Writer. Where there was nothing it prints nothing.
func (w *JSONWriter) Totals(t *DropTable) error {
	if t.Drops == 0 && len(t.Normal) == 0 {
		return nil
	}
	return w.enc.Encode(t)
}

// Flow implements Writer.
func (w *JSONWriter) Flow(f *FlowSummary) error { return w.enc.Encode(f) }

// Unanswered implements Writer.
func (w *JSONWriter) Unanswered(u *Unanswered) error { return w.enc.Encode(u) }

// Status implements Writer.
func (w *JSONWriter) Status(s *Status) error { return w.enc.Encode(s) }
