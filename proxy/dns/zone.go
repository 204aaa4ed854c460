package dns

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/proxy/snapshot"
)

// ttl of every cluster record, in seconds: short, because there are no notifications of changes, and asking is cheap.
const ttl = 5

// Source is the state that names are resolved from; *snapshot.Store is one.
type Source interface {
	// Service returns a Service, or nil.
	Service(snapshot.Name) *snapshot.Service
	// Slices returns the slices of a Service.
	Slices(snapshot.Name) []*snapshot.Slice
	// HasNamespace reports whether a namespace has Services.
	HasNamespace(string) bool
	// ByClusterIP returns the Services with a cluster IP.
	ByClusterIP(netip.Addr) []*snapshot.Service
	// EachSlice calls f for every slice until it returns false; f must not call the source.
	EachSlice(f func(*snapshot.Slice) bool)
}

var _ Source = (*snapshot.Store)(nil)

// zone resolves names of the cluster domain.
type zone struct {
	domain  string // "cluster.local."
	address netip.Addr
	source  Source
}

// result is what a name holds. A name that exists without records of the type is an empty result: NODATA.
type result struct {
	answers, extra []dns.RR
	// exists is false for NXDOMAIN.
	exists bool
	// alias is the target of a CNAME that ends the answers, to be followed.
	alias string
}

// contains reports whether name, in lower case, lies in the cluster domain.
func (z *zone) contains(name string) bool { return dns.IsSubDomain(z.domain, name) }

// lookup resolves a name in the cluster domain. Owner names in the answer are spelt as in the question.
func (z *zone) lookup(qname string, qtype uint16) result {
	name := strings.ToLower(qname)
	labels := dns.SplitDomainName(strings.TrimSuffix(name, z.domain))
	slices.Reverse(labels) // from the domain inwards: svc, namespace, service, …
	if len(labels) == 0 {
		return z.apex(qname, qtype)
	}
	switch kind, rest := labels[0], labels[1:]; kind {
	case "svc":
		return z.service(qname, qtype, rest)
	case "pod":
		return z.pod(qname, qtype, rest)
	case "dns-version": // section 2.2
		r := result{exists: len(rest) == 0}
		if r.exists && qtype == dns.TypeTXT {
			r.answers = []dns.RR{&dns.TXT{Hdr: header(qname, dns.TypeTXT), Txt: []string{"1.1.0"}}}
		}
		return r
	case "dns":
		switch {
		case len(rest) == 0:
			return result{exists: true}
		case len(rest) == 1 && rest[0] == "ns":
			return result{exists: true, answers: addresses(qname, qtype, []netip.Addr{z.address})}
		}
	}
	return result{}
}

func (z *zone) apex(qname string, qtype uint16) result {
	r := result{exists: true}
	switch qtype {
	case dns.TypeSOA:
		r.answers = []dns.RR{z.soa()}
	case dns.TypeNS:
		r.answers = []dns.RR{&dns.NS{Hdr: header(qname, dns.TypeNS), Ns: "ns.dns." + z.domain}}
		r.extra = addresses("ns.dns."+z.domain, dns.TypeA, []netip.Addr{z.address})
	}
	return r
}

// soa is the authority of negative answers (RFC 2308); its last field is how long they may be kept.
func (z *zone) soa() dns.RR {
	return &dns.SOA{
		Hdr: header(z.domain, dns.TypeSOA), Ns: "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

// service resolves below svc.<domain>. rest is namespace, service, and then an endpoint's hostname, or the protocol
// and port of an SRV name.
func (z *zone) service(qname string, qtype uint16, rest []string) result {
	if len(rest) == 0 {
		return result{exists: true}
	}
	if len(rest) == 1 {
		return result{exists: z.source.HasNamespace(rest[0])}
	}
	svc := z.source.Service(snapshot.Name{Namespace: rest[0], Name: rest[1]})
	if svc == nil {
		return result{}
	}
	if svc.Type == corev1.ServiceTypeExternalName {
		return externalName(qname, svc, len(rest) == 2)
	}
	slicesOf := z.source.Slices(svc.Name)
	switch len(rest) {
	case 2:
		if qtype == dns.TypeSRV {
			return z.srv(qname, svc, slicesOf, "", "")
		}
		ips := svc.ClusterIPs
		if svc.Headless {
			if ips = readyAddrs(slicesOf, ""); len(ips) == 0 {
				// Section 2.4.1: a headless Service without ready endpoints has no records: NXDOMAIN, as CoreDNS says it.
				return result{}
			}
		}
		return result{exists: true, answers: addresses(qname, qtype, ips)}
	case 3:
		host := rest[2]
		if host == "_tcp" || host == "_udp" || host == "_sctp" {
			return result{exists: true}
		}
		ips := readyAddrs(slicesOf, host)
		return result{exists: len(ips) > 0, answers: addresses(qname, qtype, ips)}
	case 4:
		proto, isProto := strings.CutPrefix(rest[2], "_")
		port, isPort := strings.CutPrefix(rest[3], "_")
		if !isProto || !isPort {
			return result{}
		}
		r := z.srv(qname, svc, slicesOf, port, proto)
		if qtype != dns.TypeSRV {
			r.answers, r.extra = nil, nil
		}
		return r
	}
	return result{}
}

// externalName: section 2.5.
func externalName(qname string, svc *snapshot.Service, isName bool) result {
	if !isName || svc.ExternalName == "" {
		return result{}
	}
	target := dns.Fqdn(svc.ExternalName)
	return result{exists: true, alias: target, answers: []dns.RR{&dns.CNAME{Hdr: header(qname, dns.TypeCNAME), Target: target}}}
}

// srv resolves one named port, or with an empty port all of them: sections 2.3.2 and 2.4.2.
func (z *zone) srv(qname string, svc *snapshot.Service, list []*snapshot.Slice, port, proto string) result {
	var r result
	base := svc.Name.Name + "." + svc.Namespace + ".svc." + z.domain
	wanted := func(name string, protocol corev1.Protocol) bool {
		return port == "" || name == port && strings.EqualFold(string(protocol), proto)
	}
	add := func(p uint16, target string, ips ...netip.Addr) {
		r.exists = true
		r.answers = append(r.answers, &dns.SRV{Hdr: header(qname, dns.TypeSRV), Weight: 100, Port: p, Target: target})
		for _, ip := range ips {
			r.extra = append(r.extra, addresses(target, typeOf(ip), []netip.Addr{ip})...)
		}
	}
	if !svc.Headless {
		for _, p := range svc.Ports {
			if wanted(p.Name, p.Protocol) {
				add(p.Port, base)
			}
		}
		if len(r.answers) > 0 {
			r.extra = slices.Concat(addresses(base, dns.TypeA, svc.ClusterIPs), addresses(base, dns.TypeAAAA, svc.ClusterIPs))
		}
		return r
	}
	for _, s := range list {
		for _, p := range s.Ports {
			if !wanted(p.Name, p.Protocol) {
				continue
			}
			for _, e := range s.Endpoints {
				if e.Ready {
					add(p.Port, hostname(&e)+"."+base, e.Addr)
				}
			}
		}
	}
	return r
}

// pod resolves <a-b-c-d>.<namespace>.pod.<domain> to the address it spells.
func (z *zone) pod(qname string, qtype uint16, rest []string) result {
	switch len(rest) {
	case 0:
		return result{exists: true}
	case 1:
		return result{exists: z.source.HasNamespace(rest[0])}
	case 2:
		ip, ok := dashedAddr(rest[1])
		if ok {
			return result{exists: true, answers: addresses(qname, qtype, []netip.Addr{ip})}
		}
	}
	return result{}
}

// reverse resolves an address to the names of the Service or the named endpoints that have it: sections 2.3.3 and
// 2.4.3. Addresses that are nobody's give no answer.
func (z *zone) reverse(qname string, ip netip.Addr) []dns.RR {
	var out []dns.RR
	add := func(target string) {
		out = append(out, &dns.PTR{Hdr: header(qname, dns.TypePTR), Ptr: target})
	}
	for _, svc := range z.source.ByClusterIP(ip) {
		add(svc.Name.Name + "." + svc.Namespace + ".svc." + z.domain)
	}
	if len(out) > 0 {
		return out
	}
	seen := map[string]bool{}
	z.source.EachSlice(func(s *snapshot.Slice) bool {
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if name := hostname(e) + "." + s.Service.Name + "." + s.Service.Namespace + ".svc." + z.domain; e.Addr == ip && e.Ready && e.Hostname != "" && !seen[name] {
				seen[name] = true
				add(name)
			}
		}
		return true
	})
	return out
}

// readyAddrs returns the ready endpoints' addresses, each once; host, if not empty, selects by hostname.
func readyAddrs(list []*snapshot.Slice, host string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		for i := range s.Endpoints {
			if e := &s.Endpoints[i]; e.Ready && (host == "" || hostname(e) == host || dashed(e.Addr) == host) {
				out = append(out, e.Addr)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// hostname is an endpoint's own, or its address with dashes: section 2.4.1 wants "a unique, system-assigned identifier".
func hostname(e *snapshot.Endpoint) string {
	if e.Hostname != "" {
		return e.Hostname
	}
	return dashed(e.Addr)
}

func dashed(ip netip.Addr) string {
	if ip.Is4() {
		return strings.ReplaceAll(ip.String(), ".", "-")
	}
	return strings.ReplaceAll(ip.StringExpanded(), ":", "-")
}

func dashedAddr(label string) (netip.Addr, bool) {
	sep := ":"
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		sep = "."
	}
	ip, err := netip.ParseAddr(strings.ReplaceAll(label, "-", sep))
	return ip, err == nil && ip.Zone() == ""
}

func typeOf(ip netip.Addr) uint16 {
	if ip.Is4() {
		return dns.TypeA
	}
	return dns.TypeAAAA
}

// addresses makes A or AAAA records of those of ips that have the type, in random order to spread the load.
func addresses(qname string, qtype uint16, ips []netip.Addr) []dns.RR {
	var out []dns.RR
	for _, ip := range ips {
		switch {
		case ip.Is4() && qtype == dns.TypeA:
			out = append(out, &dns.A{Hdr: header(qname, dns.TypeA), A: ip.AsSlice()})
		case !ip.Is4() && qtype == dns.TypeAAAA:
			out = append(out, &dns.AAAA{Hdr: header(qname, dns.TypeAAAA), AAAA: ip.AsSlice()})
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// reverseAddr parses a name below in-addr.arpa or ip6.arpa.
func reverseAddr(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		slices.Reverse(labels)
		ip, err := netip.ParseAddr(strings.Join(labels, "."))
		return ip, err == nil && ip.Is4()
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		nibbles := strings.Split(rest, ".")
		if len(nibbles) != 32 {
			return netip.Addr{}, false
		}
		slices.Reverse(nibbles)
		var b strings.Builder
		for i, n := range nibbles {
			if i > 0 && i%4 == 0 {
				b.WriteByte(':')
			}
			b.WriteString(n)
		}
		ip, err := netip.ParseAddr(b.String())
		return ip, err == nil
	}
	return netip.Addr{}, false
}
