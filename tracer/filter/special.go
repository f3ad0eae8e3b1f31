// SPDX-License-Identifier: Apache-2.0

// Primitives with a word of their own: broadcast, less, vlan, vxlan …

package filter

func (p *parser) cast(q qualifiers) (node, error) {
	t := p.next()
	layer := q.proto
	if layer == anyProtocol {
		layer = ether
	}
	switch {
	case layer == ether, layer == ip, layer == ip6 && t.text == "multicast":
	default:
		return nil, p.fail(q.pos, "%q has no %s", layer, t.text)
	}
	if t.text == "broadcast" {
		return broadcast{layer}, nil
	}
	return multicast{layer}, nil
}

func (p *parser) special() (n node, ok bool, err error) {
	t := p.peek()
	switch {
	case t.is("less"), t.is("greater"):
		p.next()
		v := p.next()
		if v.kind != tokNumber {
			return nil, false, p.fail(v.pos, "%s needs a length in bytes", t.text)
		}
		if t.text == "less" {
			return relation{op: ">", negated: true, l: frameLength{}, r: number(v.num)}, true, nil
		}
		return relation{op: ">=", l: frameLength{}, r: number(v.num)}, true, nil
	case t.is("vlan"):
		p.next()
		id, pos, has := p.optionalNumber()
		if id > 4095 {
			return nil, false, p.fail(pos, "VLAN %d is above 4095", id)
		}
		return vlan{uint16(id), has}, true, nil
	case t.is("vxlan"):
		p.next()
		if p.tunnels++; p.tunnels > maxTunnels {
			return nil, false, p.fail(t.pos, "more than %d tunnels", maxTunnels)
		}
		vni, pos, has := p.optionalNumber()
		if vni > 1<<24-1 {
			return nil, false, p.fail(pos, "VNI %d is above 16777215", vni)
		}
		return vxlan{vni, has}, true, nil
	}
	return nil, false, nil
}

// optionalNumber reads a number that may be in brackets, if there is one.
func (p *parser) optionalNumber() (n uint32, pos int, ok bool) {
	open := 0
	for p.ahead(open).is("(") {
		open++
	}
	t := p.ahead(open)
	if t.kind != tokNumber {
		return 0, 0, false
	}
	for i := range open {
		if !p.ahead(open + 1 + i).is(")") {
			return 0, 0, false
		}
	}
	p.at += 2*open + 1
	return t.num, t.pos, true
}
