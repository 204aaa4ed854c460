package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// errNoUpstream means that the node names no server to ask.
var errNoUpstream = errors.New("resolv.conf has no usable nameserver")

const (
	upstreamTimeout = 2 * time.Second
	totalTimeout    = 5 * time.Second
	maxInFlight     = 256
	maxWaiting      = 2048 // clients, over all questions: each costs a few kilobytes while it waits
	// recheck is how long a stale answer is given at once after no server could be reached (RFC 8767, section 5: the
	// failure recheck timer).
	recheck = 10 * time.Second
	// payload is the UDP size that survives any path unfragmented (DNS flag day 2020).
	payload = 1232
)

// forwarder asks the node's own servers. Identical questions share one request, which also ends loops: a question that
// comes back while it is being asked waits for itself and fails once.
type forwarder struct {
	resolvConf string
	self       netip.Addr // never asked
	cache      cache

	waiting atomic.Int64

	mu       sync.Mutex
	inFlight map[question]*request
	servers  []string
	modified time.Time
	// good is the server that answered last: it is asked first.
	good string
	// failed is when no server could be reached, zero once one was.
	failed time.Time
}

type request struct {
	done chan struct{}
	msg  *dns.Msg
	err  error
}

// ask answers from the cache or from a server. The message is the caller's to change.
func (f *forwarder) ask(ctx context.Context, q question) (*dns.Msg, error) {
	if m := f.cache.get(q, time.Now(), f.offline()); m != nil {
		return m, nil
	}
	if f.waiting.Add(1) > maxWaiting {
		f.waiting.Add(-1)
		return nil, fmt.Errorf("%d clients are waiting already", maxWaiting)
	}
	defer f.waiting.Add(-1)
	f.mu.Lock()
	r, joined := f.inFlight[q]
	if !joined {
		if len(f.inFlight) >= maxInFlight {
			f.mu.Unlock()
			return nil, fmt.Errorf("%d questions are in flight already", maxInFlight)
		}
		r = &request{done: make(chan struct{})}
		if f.inFlight == nil {
			f.inFlight = map[question]*request{}
		}
		f.inFlight[q] = r
	}
	f.mu.Unlock()
	if !joined {
		r.msg, r.err = f.exchange(ctx, q)
		now := time.Now()
		failed := now
		if r.err == nil {
			failed = time.Time{}
			f.cache.put(q, r.msg, now)
		} else if m := f.cache.get(q, now, true); m != nil {
			r.msg, r.err = m, nil
		}
		f.mu.Lock()
		f.failed = failed
		delete(f.inFlight, q)
		f.mu.Unlock()
		close(r.done)
	}
	select {
	case <-r.done:
	case <-time.After(totalTimeout):
		return nil, errors.New("the same question has been in flight for too long: is this server asking itself?")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r.err != nil {
		return nil, r.err
	}
	return r.msg.Copy(), nil
}

// offline reports whether servers were out of reach a moment ago.
func (f *forwarder) offline() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.failed) < recheck
}

// exchange asks each server in turn until one has an answer.
func (f *forwarder) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	servers, err := f.upstreams()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, totalTimeout)
	defer cancel()
	var last *dns.Msg
	var errs []error
	for _, server := range servers {
		m := new(dns.Msg)
		m.SetQuestion(q.name, q.qtype)
		m.SetEdns0(payload, q.do)
		answer, err := exchangeOne(ctx, m, server)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", server, err))
			continue
		}
		if answer.Rcode == dns.RcodeSuccess || answer.Rcode == dns.RcodeNameError {
			f.mu.Lock()
			f.good = server
			f.mu.Unlock()
			return answer, nil
		}
		last = answer // it refuses or fails: another may know
	}
	if last != nil {
		return last, nil
	}
	return nil, errors.Join(errs...)
}

func exchangeOne(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error) {
	c := &dns.Client{Net: "udp", Timeout: upstreamTimeout, UDPSize: payload}
	answer, _, err := c.ExchangeContext(ctx, m, server)
	if err != nil {
		return nil, err
	}
	if answer.Truncated {
		c.Net = "tcp"
		if full, _, err := c.ExchangeContext(ctx, m, server); err == nil {
			answer = full
		}
	}
	if answer.Rcode == dns.RcodeFormatError && m.IsEdns0() != nil {
		// A server from before EDNS0: RFC 6891, section 7, lets one ask again without.
		plain := m.Copy()
		plain.Extra = nil
		c.Net = "udp"
		if again, _, err := c.ExchangeContext(ctx, plain, server); err == nil {
			answer = again
		}
	}
	return answer, nil
}

// upstreams returns the servers of resolv.conf, read anew when the file has changed.
func (f *forwarder) upstreams() ([]string, error) {
	info, err := os.Stat(f.resolvConf)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoUpstream, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !info.ModTime().Equal(f.modified) {
		text, err := os.ReadFile(f.resolvConf)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNoUpstream, err)
		}
		f.servers, f.modified = parseServers(string(text), f.self), info.ModTime()
	}
	if len(f.servers) == 0 {
		return nil, fmt.Errorf("%w: add one to %s", errNoUpstream, f.resolvConf)
	}
	if i := slices.Index(f.servers, f.good); i > 0 {
		return slices.Concat(f.servers[i:], f.servers[:i]), nil
	}
	return f.servers, nil
}

// parseServers returns the first three nameservers, as resolvers use them, without this server itself.
func parseServers(text string, self netip.Addr) []string {
	var servers []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		ip, err := netip.ParseAddr(fields[1])
		if err != nil || ip.Unmap() == self {
			continue
		}
		if server := net.JoinHostPort(ip.String(), "53"); !slices.Contains(servers, server) && len(servers) < 3 {
			servers = append(servers, server)
		}
	}
	return servers
}
