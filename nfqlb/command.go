// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// The control protocol: lines of key:value, closed by eoc:, one command per
// connection. It is nfqlb's, so that either's client can talk to either's
// server.

// Command is one request to a balancer. Flow.Name picks a flow for list and
// delete; set uses all of Flow.
type Command struct {
	Action string // set, delete, list, list-names, and these with trace- in front
	Flow   FlowSpec
}

// Limits of a request. nfqlb's own clients cut each value at 1000 bytes.
const (
	maxLine  = 64 << 10
	maxLines = 64
)

var errLineTooLong = fmt.Errorf("a line of the command is longer than %d bytes", maxLine)

// Encode writes c as it goes over the socket. It fails if a value has a
// newline, which would be the next line.
func (c *Command) Encode() ([]byte, error) {
	var b strings.Builder
	var bad error
	line := func(key, value string) {
		if value == "" {
			return
		}
		if strings.ContainsAny(value, "\n\x00") {
			bad = fmt.Errorf("%s: %q has a newline or NUL in it", key, value)
		}
		if len(key)+len(value)+2 > maxLine {
			bad = fmt.Errorf("%s: %w", key, errLineTooLong)
		}
		b.WriteString(key + ":" + value + "\n")
	}
	line("action", c.Action)
	line("name", c.Flow.Name)
	line("target", c.Flow.Target)
	if c.Flow.Priority != 0 {
		line("priority", strconv.Itoa(c.Flow.Priority))
	}
	line("protocols", strings.Join(c.Flow.Protocols, ","))
	line("dsts", strings.Join(c.Flow.Dests, ","))
	line("srcs", strings.Join(c.Flow.Srcs, ","))
	line("dports", strings.Join(c.Flow.DPorts, ","))
	line("sports", strings.Join(c.Flow.SPorts, ","))
	line("match", strings.Join(c.Flow.Match, ","))
	if c.Flow.UDPEncap != 0 {
		line("udpencap", strconv.Itoa(c.Flow.UDPEncap))
	}
	b.WriteString("eoc:\n")
	return []byte(b.String()), bad
}

// ReadCommand reads one request up to its eoc: line. Unknown keys are passed
// over, as nfqlb does; of a key given twice the first counts.
func ReadCommand(r io.Reader) (*Command, error) {
	in := bufio.NewReaderSize(r, maxLine)
	c := new(Command)
	seen := make(map[string]bool)
	for range maxLines {
		raw, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, errLineTooLong
		case err != nil:
			return nil, fmt.Errorf("command ends without eoc: %w", err)
		}
		key, value, ok := strings.Cut(strings.TrimSuffix(string(raw), "\n"), ":")
		if !ok {
			return nil, fmt.Errorf("%q is no key:value", key)
		}
		if key == "eoc" {
			return c, nil
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		if err := c.set(key, value); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("command of more than %d lines", maxLines)
}

func (c *Command) set(key, value string) error {
	var err error
	switch key {
	case "action":
		c.Action = value
	case "name":
		c.Flow.Name = value
	case "target":
		c.Flow.Target = value
	case "priority":
		c.Flow.Priority, err = strconv.Atoi(value)
	case "protocols":
		c.Flow.Protocols, err = splitList(value, ", ")
	case "dsts":
		c.Flow.Dests, err = splitList(value, ", ")
	case "srcs":
		c.Flow.Srcs, err = splitList(value, ", ")
	case "dports":
		c.Flow.DPorts, err = splitList(value, ", ")
	case "sports":
		c.Flow.SPorts, err = splitList(value, ", ")
	case "match":
		c.Flow.Match, err = splitList(value, ",")
	case "udpencap":
		c.Flow.UDPEncap, err = strconv.Atoi(value)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// splitList splits at any of the separators. An empty list is refused: it
// would mean any, and surely was not meant to.
func splitList(s, separators string) ([]string, error) {
	list := strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(separators, r) })
	if len(list) == 0 {
		return nil, errors.New("an empty list; leave it out for any")
	}
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list, nil
}
