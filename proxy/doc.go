// Package proxy makes Services work on a node: kernel rules for their addresses, and cluster DNS for their names, both
// from one snapshot of Services and EndpointSlices.
//
//	watch ─► snapshot ─┬─► rules (pure) ─► iptables-restore of the chains that changed ─► conntrack ─► health checks
//	                   └─► dns, on the cluster DNS address of every node
//
// The first change is applied at once; those that come while it is being applied, or within MinInterval of its start,
// are applied together. Rules stay when the process ends, and while the API server is away: connections go on. Cleanup
// takes them away.
//
// Left out, and why: node ports on 127.0.0.0/8 (they need route_localnet on every link, which opens the loopback to
// neighbours); IPv6 (clusters are IPv4 for now).
//
// Reads:  Services, EndpointSlices, this Node's zone; the node's iptables rules and conntrack table; resolv.conf.
// Writes: chains that rules.OwnChain accepts, with jumps to them; conntrack entries of UDP and SCTP Services; the
// cluster DNS address on the loopback link; routing table 109 and its rule.
package proxy
