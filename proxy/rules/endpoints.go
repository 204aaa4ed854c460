package rules

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/mote-edge/mote/proxy/snapshot"
)

// Topology is where this node stands.
type Topology struct{ Node, Zone string }

// endpoints are the targets of one port of a Service, sorted and free of duplicates.
type endpoints struct {
	// cluster is for traffic that may go to any node; hints have narrowed it.
	cluster []netip.AddrPort
	// local is for traffic that must stay on this node.
	local []netip.AddrPort
	// ready counts the local endpoints that are ready: what load balancers are told.
	ready int
	// any is set when there is an endpoint on some node, so that a lack of local ones drops instead of rejects.
	any bool
}

type candidate struct {
	target netip.AddrPort
	*snapshot.Endpoint
}

// selectEndpoints picks the targets of port. Ready endpoints come first; where there is none, those that are
// terminating but still serve ("KEP-1669: proxy terminating endpoints").
func selectEndpoints(port snapshot.Port, list []*snapshot.Slice, at Topology) endpoints {
	var all []candidate
	for _, s := range list {
		if s.NamesOnly {
			continue
		}
		for _, p := range s.Ports {
			if p.Name != port.Name || p.Protocol != port.Protocol {
				continue
			}
			for i := range s.Endpoints {
				if e := &s.Endpoints[i]; e.Addr.Is4() {
					all = append(all, candidate{netip.AddrPortFrom(e.Addr, p.Port), e})
				}
			}
		}
	}
	usable := firstNonEmpty(all, func(c candidate) bool { return c.Ready }, servesWhileTerminating)
	local := slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return !c.Local })
	ready := 0
	for _, c := range local {
		if c.Ready {
			ready++
		}
	}
	return endpoints{
		ready:   ready,
		cluster: targets(nearby(usable, at)),
		local:   targets(firstNonEmpty(local, func(c candidate) bool { return c.Ready }, servesWhileTerminating)),
		any:     len(usable) > 0,
	}
}

func servesWhileTerminating(c candidate) bool { return c.Serving && c.Terminating }

// firstNonEmpty returns the candidates that the first of tests accepts that accepts any.
func firstNonEmpty(all []candidate, tests ...func(candidate) bool) []candidate {
	for _, test := range tests {
		if got := slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return !test(c) }); len(got) > 0 {
			return got
		}
	}
	return nil
}

// nearby keeps the endpoints that hints assign to this node, else to its zone. Hints count only if every endpoint has
// them and one of them names us: a half-updated set must not leave a node without endpoints.
func nearby(all []candidate, at Topology) []candidate {
	for _, h := range []struct {
		place string
		hints func(candidate) []string
	}{
		{at.Node, func(c candidate) []string { return c.HintNodes }},
		{at.Zone, func(c candidate) []string { return c.HintZones }},
	} {
		if h.place == "" || slices.ContainsFunc(all, func(c candidate) bool { return len(h.hints(c)) == 0 }) {
			continue
		}
		near := slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return !slices.Contains(h.hints(c), h.place) })
		if len(near) > 0 {
			return near
		}
	}
	return all
}

func targets(list []candidate) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(list))
	for _, c := range list {
		out = append(out, c.target)
	}
	slices.SortFunc(out, func(a, b netip.AddrPort) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Port(), b.Port()))
	})
	return slices.Compact(out)
}
