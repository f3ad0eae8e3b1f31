// SPDX-License-Identifier: Apache-2.0

// Which process has a socket.

package decoder

import "waymark/bpf"

// maxOwners bounds the sockets whose process is remembered. The tracer tells
// of one that is in use again well before as many others came
// ([OwnersRetold]).
const maxOwners = 4 * OwnersRetold

// OwnersRetold is after how many sockets told the writer of a stream tells
// again of one that is still in use: who reads it keeps a bounded number.
const OwnersRetold = 8192

// owners are sockets and their processes, by inode. Of too many, those go that
// were told longest ago.
type owners struct{ young, old map[uint64]*Process }

func (o *owners) add(p *Process) {
	if len(o.young) >= maxOwners/2 {
		o.old, o.young = o.young, nil
	}
	if o.young == nil {
		o.young = map[uint64]*Process{}
	}
	o.young[p.Socket] = p
}

func (o *owners) find(socket uint64) *Process {
	if p := o.young[socket]; p != nil {
		return p
	}
	return o.old[socket]
}

// listenerKey is where a TCP socket listens.
type listenerKey struct {
	netns uint32
	port  uint16 // as on the wire
}

const maxListeners = 4096

// heard notes which socket listens on a port, as records tell of it.
func (w *world) heard(r *bpf.Record, ext []byte) {
	x, err := bpf.DecodeExt[bpf.SocketExt](ext)
	if err != nil || x.Inode == 0 || x.Protocol != protoTCP || nameAt(tcpStates, int(x.State)) != stateListen {
		return
	}
	if len(w.listeners) >= maxListeners {
		clear(w.listeners)
	}
	w.listeners[listenerKey{r.Netns, x.Lport}] = x.Inode
}

// owner is the process that has a socket, or (own is false) the one that
// listens on its port: a connection belongs to no process before it is
// accepted, and may be over before anybody could look. nil: it is not known.
func (w *world) owner(x *bpf.SocketExt, netns uint32) (p *Process, own bool) {
	if p := w.owners.find(x.Inode); p != nil && x.Inode != 0 {
		return p, true
	}
	if x.Protocol != protoTCP {
		return nil, false
	}
	return w.owners.find(w.listeners[listenerKey{netns, x.Lport}]), false
}
