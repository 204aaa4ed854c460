package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Config says what the server answers, and where.
type Config struct {
	// Address is listened on, UDP and TCP port 53; it has to be an address of the node.
	Address netip.Addr
	// Domain is the cluster domain, as in "cluster.local".
	Domain string
	Source Source
	// Ready is closed once Source is complete; until then cluster names are a server failure, which clients retry.
	Ready <-chan struct{}
	// ResolvConf names the file with the servers for all other names.
	ResolvConf string
	// Ranges are the cluster's own addresses: their reverse names are not asked elsewhere.
	Ranges []netip.Prefix
	// Port is 53 if 0.
	Port uint16
}

// Server is a cluster DNS server.
type Server struct {
	cfg     Config
	zone    zone
	forward forwarder
}

// New returns a server that does nothing until Run.
func New(cfg Config) (*Server, error) {
	if _, ok := dns.IsDomainName(cfg.Domain); !ok || cfg.Domain == "" {
		return nil, fmt.Errorf("cluster DNS: %q is not a domain name: set --cluster-domain, as in cluster.local", cfg.Domain)
	}
	if cfg.Port == 0 {
		cfg.Port = 53
	}
	return &Server{
		cfg:     cfg,
		zone:    zone{domain: strings.ToLower(dns.Fqdn(cfg.Domain)), address: cfg.Address, source: cfg.Source},
		forward: forwarder{resolvConf: cfg.ResolvConf, self: cfg.Address},
	}, nil
}

// Run serves until ctx ends or a socket fails.
func (s *Server) Run(ctx context.Context) error {
	at := netip.AddrPortFrom(s.cfg.Address, s.cfg.Port)
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return fmt.Errorf("cluster DNS: %w: another DNS server on port %d of all addresses has to be bound to its own ones", err, s.cfg.Port)
	}
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		_ = udp.Close()
		return fmt.Errorf("cluster DNS: %w: another DNS server on port %d of all addresses has to be bound to its own ones", err, s.cfg.Port)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { s.serve(ctx, w, m) })
	servers := []*dns.Server{
		{PacketConn: udp, Handler: handler, UDPSize: dns.DefaultMsgSize},
		{Listener: tcp, Handler: handler, IdleTimeout: func() time.Duration { return 10 * time.Second }},
	}
	failed := make(chan error, len(servers))
	for _, srv := range servers {
		go func() { failed <- srv.ActivateAndServe() }()
	}
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	// Closing the sockets ends both servers, also one that has not begun yet, which Shutdown would not know.
	return errors.Join(err, ignoreClosed(udp.Close()), ignoreClosed(tcp.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, m *dns.Msg) {
	r := s.answer(ctx, m)
	if _, isUDP := w.RemoteAddr().(*net.UDPAddr); isUDP {
		size := dns.MinMsgSize
		if opt := m.IsEdns0(); opt != nil {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), payload)
		}
		r.Truncate(size)
	} else {
		r.Truncate(dns.MaxMsgSize)
	}
	if err := w.WriteMsg(r); err != nil {
		slog.DebugContext(ctx, "DNS answer not sent", "client", w.RemoteAddr(), "error", err)
	}
}

// answer makes the reply to any query, however odd.
func (s *Server) answer(ctx context.Context, m *dns.Msg) *dns.Msg {
	r := new(dns.Msg)
	r.SetReply(m)
	r.RecursionAvailable, r.Compress = true, true
	opt := m.IsEdns0()
	if opt != nil {
		defer func() {
			removeOPT(r)
			r.SetEdns0(payload, opt.Do())
		}()
	}
	switch {
	case m.Opcode != dns.OpcodeQuery:
		r.Rcode = dns.RcodeNotImplemented
		return r
	case len(m.Question) != 1:
		r.Rcode = dns.RcodeFormatError
		return r
	case opt != nil && opt.Version() != 0:
		r.Rcode = dns.RcodeBadVers // RFC 6891, section 6.1.3
		return r
	}
	q := m.Question[0]
	if q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		r.Rcode = dns.RcodeRefused
		return r
	}
	if q.Qtype == dns.TypeANY {
		q.Qtype = dns.TypeA // RFC 8482: any subset will do
	}
	name := strings.ToLower(q.Name)
	switch ip, isReverse := reverseAddr(name); {
	case s.zone.contains(name):
		s.answerZone(ctx, r, q)
	case isReverse && s.answerReverse(r, q, ip):
	default:
		s.answerForward(ctx, r, q, opt != nil && opt.Do())
	}
	return r
}

func (s *Server) ready() bool {
	select {
	case <-s.cfg.Ready:
		return true
	default:
		return false
	}
}

func (s *Server) answerZone(ctx context.Context, r *dns.Msg, q dns.Question) {
	r.Authoritative = true
	if !s.ready() {
		r.Authoritative, r.Rcode = false, dns.RcodeServerFailure
		return
	}
	res := s.zone.lookup(q.Name, q.Qtype)
	r.Answer, r.Extra = res.answers, res.extra
	if res.alias != "" && q.Qtype != dns.TypeCNAME {
		s.follow(ctx, r, res.alias, q.Qtype)
	}
	if !res.exists {
		r.Rcode = dns.RcodeNameError
	}
	if len(r.Answer) == 0 && r.Rcode != dns.RcodeServerFailure {
		r.Ns = []dns.RR{s.zone.soa()}
	}
}

// follow adds what the target of a CNAME holds: stub resolvers expect the whole chain in one answer.
func (s *Server) follow(ctx context.Context, r *dns.Msg, target string, qtype uint16) {
	for range 8 { // a chain of ExternalNames may be a circle
		if !s.zone.contains(strings.ToLower(target)) {
			m, err := s.forward.ask(ctx, question{name: strings.ToLower(target), qtype: qtype})
			if err != nil {
				slog.DebugContext(ctx, "ExternalName not resolved", "target", target, "error", err)
				r.Rcode = dns.RcodeServerFailure
				return
			}
			r.Answer, r.Rcode = append(r.Answer, m.Answer...), m.Rcode
			return
		}
		res := s.zone.lookup(target, qtype)
		r.Answer = append(r.Answer, res.answers...)
		if target = res.alias; target == "" {
			return
		}
	}
}

// answerReverse reports whether the address is for this server to resolve.
func (s *Server) answerReverse(r *dns.Msg, q dns.Question, ip netip.Addr) bool {
	own := false
	for _, p := range s.cfg.Ranges {
		own = own || p.Contains(ip)
	}
	if !s.ready() {
		r.Rcode = dns.RcodeServerFailure
		return own
	}
	ptrs := s.zone.reverse(q.Name, ip)
	if len(ptrs) == 0 && !own {
		return false
	}
	r.Authoritative = true
	switch {
	case len(ptrs) == 0:
		r.Rcode = dns.RcodeNameError
		r.Ns = []dns.RR{s.zone.soa()}
	case q.Qtype == dns.TypePTR:
		r.Answer = ptrs
	default:
		r.Ns = []dns.RR{s.zone.soa()}
	}
	return true
}

func (s *Server) answerForward(ctx context.Context, r *dns.Msg, q dns.Question, do bool) {
	m, err := s.forward.ask(ctx, question{name: strings.ToLower(q.Name), qtype: q.Qtype, do: do})
	if err != nil {
		slog.DebugContext(ctx, "DNS question not answered", "name", q.Name, "error", err)
		r.Rcode = dns.RcodeServerFailure
		return
	}
	for _, rr := range m.Answer {
		if strings.EqualFold(rr.Header().Name, q.Name) {
			rr.Header().Name = q.Name // spelt as in the question: clients may check (draft-vixie-dnsext-dns0x20)
		}
	}
	r.Rcode, r.Answer, r.Ns, r.Extra = m.Rcode, m.Answer, m.Ns, m.Extra
	r.AuthenticatedData, r.Truncated = m.AuthenticatedData, m.Truncated
	removeOPT(r)
}

// removeOPT drops another hop's EDNS record: it speaks of that hop alone.
func removeOPT(m *dns.Msg) {
	kept := m.Extra[:0]
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	m.Extra = kept
}
