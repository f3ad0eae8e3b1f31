// SPDX-License-Identifier: Apache-2.0

// Relations between 32-bit unsigned expressions: tcp[tcpflags] & tcp-syn != 0.
//
// Precedence is libpcap's, including that ^ and % bind to the operand on their
// left alone and take everything to their right.

package filter

import "errors"

const (
	divisionByZero = "division by zero"
	shiftTooFar    = "shift by more than 31 bits"
)

var precedence = map[string]int{"|": 1, "&": 2, "<<": 3, ">>": 3, "+": 4, "-": 4, "*": 5, "/": 5}

// startsRelation decides between "(ether[0] + 1) = 2" and "(tcp)" by reading
// the arithmetic and looking what follows it.
func (p *parser) startsRelation() bool {
	t := p.peek()
	switch {
	case t.kind == tokNumber, t.is("-", "len"):
		return true
	case t.kind == tokWord && isProtocol(t.text):
		return p.ahead(1).is("[")
	case !t.is("("):
		return false
	}
	i := 0
	for p.ahead(i).is("(") {
		i++
	}
	if t := p.ahead(i); t.kind != tokNumber && !t.is("-", "len") && !p.ahead(i+1).is("[") {
		return false
	}
	at, depth := p.at, p.depth
	defer func() { p.at, p.depth = at, depth }()
	_, err := p.arithmetic(0)
	var e *Error
	if errors.As(err, &e) && (e.Msg == divisionByZero || e.Msg == shiftTooFar) {
		return true // it reads as arithmetic: relation will say so again
	}
	return err == nil && p.peek().is("=", "!=", "<", ">", "<=", ">=")
}

func (p *parser) relation() (node, error) {
	l, err := p.arithmetic(0)
	if err != nil {
		return nil, err
	}
	op := p.peek()
	if !op.is("=", "!=", "<", ">", "<=", ">=") {
		if op.kind == tokEnd || op.is("and", "or", ")") {
			return nil, p.fail(op.pos, "a comparison such as != 0 is missing")
		}
		return nil, p.unexpected(op)
	}
	p.next()
	r, err := p.arithmetic(0)
	if err != nil {
		return nil, err
	}
	rel := relation{op: op.text, l: l, r: r}
	switch op.text {
	case "!=":
		rel.op, rel.negated = "=", true
	case "<":
		rel.op, rel.negated = ">=", true
	case "<=":
		rel.op, rel.negated = ">", true
	}
	if needsScratch(rel) > maxTemporaries {
		return nil, p.fail(op.pos, "the arithmetic around this comparison is nested too deep")
	}
	return rel, nil
}

func (p *parser) arithmetic(level int) (arith, error) {
	l, err := p.factor()
	if err != nil {
		return nil, err
	}
	for {
		op := p.peek()
		prec := precedence[op.text]
		if op.kind != tokOp || prec == 0 || prec <= level {
			return l, nil
		}
		p.next()
		r, err := p.arithmetic(prec)
		if err != nil {
			return nil, err
		}
		if l, err = p.combine(op, l, r); err != nil {
			return nil, err
		}
	}
}

func (p *parser) factor() (arith, error) {
	t := p.peek()
	if err := p.enter(t); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	l, err := p.atom()
	if err != nil {
		return nil, err
	}
	if op, ok := p.accept("^", "%"); ok {
		r, err := p.arithmetic(0)
		if err != nil {
			return nil, err
		}
		return p.combine(op, l, r)
	}
	return l, nil
}

func (p *parser) atom() (arith, error) {
	t := p.next()
	switch {
	case t.kind == tokNumber:
		return number(t.num), nil
	case t.is("len"):
		return frameLength{}, nil
	case t.is("-"):
		x, err := p.factor()
		if n, ok := x.(number); ok {
			return -n, err
		}
		return negative{x}, err
	case t.is("("):
		x, err := p.arithmetic(0)
		if err != nil {
			return nil, err
		}
		if t, ok := p.accept(")"); !ok {
			return nil, p.fail(t.pos, "a closing bracket is missing")
		}
		return x, nil
	case t.kind == tokWord && isProtocol(t.text) && p.peek().is("["):
		return p.bytesAt(t)
	}
	return nil, p.unexpected(t)
}

func (p *parser) bytesAt(t token) (arith, error) {
	switch t.text {
	case "ah", "esp", "stp":
		return nil, p.fail(t.pos, "bytes of %q cannot be read", t.text)
	}
	p.next() // [
	index, err := p.arithmetic(0)
	if err != nil {
		return nil, err
	}
	b := bytesAt{protocol(t.text), index, 1}
	if _, ok := p.accept(":"); ok {
		size := p.next()
		if size.kind != tokNumber || size.num != 1 && size.num != 2 && size.num != 4 {
			return nil, p.fail(size.pos, "the size must be 1, 2 or 4")
		}
		b.size = int(size.num)
	}
	if t, ok := p.accept("]"); !ok {
		return nil, p.fail(t.pos, "a closing ] is missing")
	}
	return b, nil
}

func (p *parser) combine(op token, l, r arith) (arith, error) {
	b := operation{op.text[0], l, r}
	switch op.text {
	case "<<":
		b.op = 'l'
	case ">>":
		b.op = 'r'
	}
	rn, rConst := r.(number)
	switch {
	case rConst && rn == 0 && (b.op == '/' || b.op == '%'):
		return nil, p.fail(op.pos, divisionByZero)
	case rConst && rn > 31 && (b.op == 'l' || b.op == 'r'):
		return nil, p.fail(op.pos, shiftTooFar)
	}
	if ln, ok := l.(number); ok && rConst {
		return fold(b.op, ln, rn), nil
	}
	return b, nil
}

func fold(op byte, l, r number) number {
	switch op {
	case '+':
		return l + r
	case '-':
		return l - r
	case '*':
		return l * r
	case '/':
		return l / r
	case '%':
		return l % r
	case '&':
		return l & r
	case '|':
		return l | r
	case '^':
		return l ^ r
	case 'l':
		return l << r
	}
	return l >> r
}
