package dns

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of the cache. Packed answers are a few hundred bytes, so a full cache stays below a megabyte.
const (
	cacheEntries = 1024
	maxTTL       = 5 * time.Minute
	staleTTL     = 30 * time.Second // what a stale answer tells its client (RFC 8767, section 5)
	maxStale     = 24 * time.Hour
)

// question is what an answer depends on.
type question struct {
	name  string // lower case
	qtype uint16
	do    bool // the client wants DNSSEC records
}

// cache keeps answers of other servers, packed.
type cache struct {
	mu      sync.Mutex
	entries map[question]entry
}

type entry struct {
	packed          []byte
	stored, expires time.Time
}

// get returns an answer whose TTLs have been lowered by its age. stale allows one that has expired.
func (c *cache) get(q question, now time.Time, stale bool) *dns.Msg {
	c.mu.Lock()
	e, ok := c.entries[q]
	c.mu.Unlock()
	expired := !now.Before(e.expires)
	if !ok || expired && (!stale || now.Sub(e.expires) > maxStale) {
		return nil
	}
	m := new(dns.Msg)
	if m.Unpack(e.packed) != nil {
		return nil
	}
	age := uint32(now.Sub(e.stored) / time.Second)
	eachRR(m, func(h *dns.RR_Header) {
		switch {
		case expired:
			h.Ttl = uint32(staleTTL / time.Second)
		case h.Ttl > age:
			h.Ttl -= age
		default:
			h.Ttl = 1
		}
	})
	return m
}

// put keeps m if it may be kept: answers, and negative answers with an SOA (RFC 2308, section 5).
func (c *cache) put(q question, m *dns.Msg, now time.Time) {
	life, ok := lifetime(m)
	if !ok || m.Truncated {
		return
	}
	packed, err := m.Pack()
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[question]entry{}
	}
	if _, have := c.entries[q]; !have && len(c.entries) >= cacheEntries {
		c.evict(now)
	}
	c.entries[q] = entry{packed: packed, stored: now, expires: now.Add(life)}
}

// evict makes room: of a handful of entries, which the map yields in random order, the one that expires first goes.
func (c *cache) evict(now time.Time) {
	var victim question
	var first time.Time
	seen := 0
	for q, e := range c.entries {
		if seen == 0 || e.expires.Before(first) {
			victim, first = q, e.expires
		}
		if seen++; seen == 8 || first.Before(now) {
			break
		}
	}
	delete(c.entries, victim)
}

func lifetime(m *dns.Msg) (time.Duration, bool) {
	switch {
	case m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0:
		life := maxTTL
		eachRR(m, func(h *dns.RR_Header) { life = min(life, time.Duration(h.Ttl)*time.Second) })
		return life, life > 0
	case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				life := min(maxTTL, time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second)
				return life, life > 0
			}
		}
	}
	return 0, false
}

func eachRR(m *dns.Msg, f func(*dns.RR_Header)) {
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				f(h)
			}
		}
	}
}
