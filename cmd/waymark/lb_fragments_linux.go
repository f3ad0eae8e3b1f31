// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"waymark/nfqlb"
)

// The balancer's options for fragments.

type lbFragments struct {
	config         nfqlb.FragmentConfig
	ttl            int // milliseconds
	tier, tun, shm string
}

func lbFragmentFlags(f *pflag.FlagSet) *lbFragments {
	o := &lbFragments{config: nfqlb.DefaultFragments()}
	c := &o.config
	f.StringVar(&o.tier, "lbshm", "", "table of the balancers that share fragments by address; its own mark is this one's")
	f.StringVar(&o.tun, "tun", "", "tun device that fragments which came before their first one go back through; made if it is not there")
	f.IntVar(&c.MTU, "mtu", c.MTU, "longest fragment that can be kept for --tun, bytes")
	f.IntVar(&c.Size, "ft-size", c.Size, "slots of the fragment table: fragmented packets per second * ttl * 2")
	f.IntVar(&c.Buckets, "ft-buckets", c.Buckets, "further entries, for packets whose slot is taken")
	f.IntVar(&c.Stored, "ft-frag", c.Stored, "fragments that are kept at a time for --tun")
	f.IntVar(&o.ttl, "ft-ttl", int(c.TTL.Milliseconds()), "milliseconds a packet's entry lives after its last fragment")
	f.IntVar(&c.Reassembler, "reassembler", 0, "packets at a time whose entry is freed with their last fragment")
	f.StringVar(&o.shm, "ft-shm", nfqlb.FragStatsName, "name in "+nfqlb.ShmDir+" where fragments are counted, see waymark lb stats")
	return o
}

func (o *lbFragments) check() error {
	o.config.TTL = time.Duration(o.ttl) * time.Millisecond
	if len(o.tun) >= unix.IFNAMSIZ {
		return fmt.Errorf("--tun %s is longer than %d bytes", o.tun, unix.IFNAMSIZ-1)
	}
	if _, err := nfqlb.ShmPath(nfqlb.ShmDir, o.shm); err != nil {
		return err
	}
	return o.config.Check()
}

// copyRange is what the queue has to copy of each packet; 0 is the least.
func (o *lbFragments) copyRange() int {
	if o.tun == "" {
		return 0
	}
	return o.config.MTU
}

const ipv4Settings = "/proc/sys/net/ipv4/conf"

// strictFilter tells whether dev takes IPv4 packets only from where it would
// send to. The larger of all's and the device's number counts (kernel:
// IN_DEV_RPFILTER); 1 is strict, 2 loose.
func strictFilter(dir, dev string) bool {
	largest := 0
	for _, name := range []string{"all", dev} {
		raw, err := os.ReadFile(filepath.Join(dir, name, "rp_filter"))
		if err != nil {
			continue // a warning less
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil {
			largest = max(largest, n)
		}
	}
	return largest == 1
}

// start makes b place fragments. end gives the device back once no packet
// comes any more.
func (o *lbFragments) start(b *nfqlb.Balancer, log zerolog.Logger, life *lbLife) (end func(), err error) {
	end = func() {}
	if o.tier != "" {
		err := b.UseTier(o.tier, func(name string) (*nfqlb.Shared, error) { return nfqlb.ReadShared(nfqlb.ShmDir, name) })
		if err != nil {
			return nil, err
		}
	}
	if o.tun != "" {
		tun, err := life.tun(o.tun)
		if err != nil {
			return nil, unsupported(err)
		}
		end = func() { tun.Close() }
		o.config.Inject = tun.Inject
		if strictFilter(ipv4Settings, o.tun) {
			log.Warn().Str("device", o.tun).Msg("its reverse path filter is strict and drops what comes back through it; " +
				"set net.ipv4.conf." + o.tun + ".rp_filter to 2")
		}
	}
	// The mapping lives as long as the process.
	if o.config.Stats, _, err = nfqlb.ShareFragStats(nfqlb.ShmDir, o.shm); err != nil {
		log.Warn().Err(err).Msg("the fragment counters are not shared")
	}
	return end, b.TrackFragments(o.config)
}
