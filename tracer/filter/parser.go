// SPDX-License-Identifier: Apache-2.0

// The parser: expressions, their qualifiers and how those are inherited.
//
// "and" and "or" have one precedence and group to the left; "not" binds
// tightest. In "port 80 or 443" the second operand inherits the qualifiers of
// the last one that had any.

package filter

import "fmt"

// maxDepth bounds nesting, so that no input exhausts the stack.
const maxDepth = 128

type parser struct {
	text   string
	tokens []token
	at     int
	depth  int

	tunnels int // vxlan primitives so far
}

// qualifiers say what an operand such as 10.0.0.1 or 80 means.
type qualifiers struct {
	proto protocol
	dir   direction
	what  string // "", host, net, port, portrange, proto
	valid bool
	pos   int // of the first qualifier
}

func parse(text string) (node, error) {
	tokens, err := lex(text)
	if err != nil {
		return nil, err
	}
	p := &parser{text: text, tokens: tokens}
	if p.peek().kind == tokEnd {
		return everything{}, nil
	}
	n, _, err := p.expression()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != tokEnd {
		return nil, p.unexpected(t)
	}
	return n, nil
}

func (p *parser) peek() token { return p.ahead(0) }

func (p *parser) ahead(n int) token { return p.tokens[min(p.at+n, len(p.tokens)-1)] }

func (p *parser) next() token {
	t := p.peek()
	p.at++
	return t
}

// accept takes the next token if it is one of texts.
func (p *parser) accept(texts ...string) (token, bool) {
	t := p.peek()
	if t.is(texts...) {
		p.at++
		return t, true
	}
	return t, false
}

func (p *parser) fail(pos int, format string, args ...any) error {
	return &Error{p.text, pos, fmt.Sprintf(format, args...)}
}

func (p *parser) unexpected(t token) error {
	switch {
	case t.kind == tokEnd:
		return p.fail(t.pos, "something is missing")
	case isRefused[t.text] && t.kind == tokWord:
		return p.fail(t.pos, "%q is not supported", t.text)
	case t.isID():
		return p.fail(t.pos, "%q needs a qualifier such as host, net or port before it", t.text)
	}
	return p.fail(t.pos, "%q is not expected here", t.text)
}

func (p *parser) enter(t token) error {
	if p.depth++; p.depth > maxDepth {
		return p.fail(t.pos, "nested more than %d deep", maxDepth)
	}
	return nil
}

func (p *parser) expression() (node, qualifiers, error) {
	left, q, err := p.term()
	if err != nil {
		return nil, q, err
	}
	for {
		op, ok := p.accept("and", "or")
		if !ok {
			return left, q, nil
		}
		right, rq, err := p.operand(q)
		if err != nil {
			return nil, q, err
		}
		left, q = join(op, left, right), rq
	}
}

func join(op token, l, r node) node {
	if op.text == "and" {
		return both{l, r}
	}
	return either{l, r}
}

// operand is what may follow and/or: a term, or an ID that inherits q.
func (p *parser) operand(q qualifiers) (node, qualifiers, error) {
	if t := p.peek(); p.startsID() {
		if !q.valid {
			return nil, q, p.unexpected(t)
		}
		n, err := p.id(q)
		return n, q, err
	}
	return p.term()
}

// startsID looks through "not" and brackets for an ID that is not the
// beginning of arithmetic.
func (p *parser) startsID() bool {
	i := 0
	for p.ahead(i).is("not", "(") {
		i++
	}
	t := p.ahead(i)
	if !t.isID() || t.kind == tokNumber && p.isArithmetic(i) {
		return false
	}
	return true
}

// isArithmetic reports whether the number i tokens ahead is calculated or
// compared with, also when brackets are closed in between.
func (p *parser) isArithmetic(i int) bool {
	for i++; p.ahead(i).is(")"); i++ {
	}
	return p.ahead(i).is("+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>", "=", "!=", "<", ">", "<=", ">=")
}

func (p *parser) term() (node, qualifiers, error) {
	t := p.peek()
	if err := p.enter(t); err != nil {
		return nil, qualifiers{}, err
	}
	defer func() { p.depth-- }()

	if _, ok := p.accept("not"); ok {
		n, q, err := p.term()
		return not{n}, q, err
	}
	if p.startsRelation() {
		n, err := p.relation()
		return n, qualifiers{}, err
	}
	if _, ok := p.accept("("); ok {
		n, q, err := p.expression()
		if err != nil {
			return nil, q, err
		}
		if t, ok := p.accept(")"); !ok {
			return nil, q, p.fail(t.pos, "a closing bracket is missing")
		}
		return n, q, nil
	}
	if n, ok, err := p.special(); ok || err != nil {
		return n, qualifiers{}, err
	}
	return p.primitive()
}

// primitive is qualifiers with their ID, or a bare protocol.
func (p *parser) primitive() (node, qualifiers, error) {
	first := p.peek()
	q := qualifiers{pos: first.pos, valid: true}
	named := first.kind == tokWord && isProtocol(first.text)
	if named {
		q.proto = protocol(p.next().text)
	}
	hasDir := p.direction(&q)
	t := p.peek()
	switch {
	case t.is("host", "net", "port", "portrange"), t.is("proto") && !hasDir:
		q.what = p.next().text
	case t.is("broadcast", "multicast") && !hasDir:
		n, err := p.cast(q)
		return n, qualifiers{}, err
	case hasDir:
	case isRefused[t.text] && t.kind == tokWord:
		return nil, q, p.unexpected(t)
	case named:
		if q.proto == ether {
			return nil, q, p.fail(t.pos, "%q needs host, src, dst, proto, broadcast or multicast", first.text)
		}
		return protocolName{q.proto}, qualifiers{}, nil
	default:
		return nil, q, p.unexpected(t)
	}
	n, err := p.id(q)
	return n, q, err
}

// direction reads src, dst, "src or dst", "src and dst" and the like.
func (p *parser) direction(q *qualifiers) bool {
	t, ok := p.accept("src", "dst")
	if !ok {
		return false
	}
	q.dir = direction(map[string]direction{"src": src, "dst": dst}[t.text])
	if p.ahead(0).is("and", "or") && p.ahead(1).is("src", "dst") && p.ahead(1).text != t.text {
		q.dir = map[string]direction{"and": srcAndDst, "or": srcOrDst}[p.next().text]
		p.next()
	}
	return true
}

// id reads an ID under q: one operand, a negated one, or a bracket of them.
func (p *parser) id(q qualifiers) (node, error) {
	t := p.peek()
	if err := p.enter(t); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	if _, ok := p.accept("not"); ok {
		n, err := p.id(q)
		return not{n}, err
	}
	if _, ok := p.accept("("); ok {
		n, err := p.id(q)
		for err == nil {
			op, ok := p.accept("and", "or")
			if !ok {
				break
			}
			var r node
			if r, err = p.id(q); err == nil {
				n = join(op, n, r)
			}
		}
		if err != nil {
			return nil, err
		}
		if t, ok := p.accept(")"); !ok {
			return nil, p.fail(t.pos, "a closing bracket is missing")
		}
		return n, nil
	}
	if !t.isID() {
		if t.kind == tokWord {
			return nil, p.fail(t.pos, "%q is a keyword here: write \\%s for the name", t.text, t.text)
		}
		return nil, p.fail(t.pos, "an address, port or name is missing")
	}
	return p.leaf(q)
}
