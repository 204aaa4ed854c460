// Package dns answers cluster DNS (Kubernetes DNS-Based Service Discovery 1.1) from the proxy's snapshot, and asks the
// node's own servers for everything else. It runs on every node, so names resolve without a hop, and in the cluster also
// without a network.
//
//	query ─┬─ in the cluster domain, or the reverse of an address that is known here ─► zone (snapshot)
//	       └─ else ─► cache ─► one request per question at a time ─► servers of resolv.conf
//
// An answer from elsewhere that has run out is still given, for a day, while no server can be reached (RFC 8767).
//
// Reads:  the snapshot; resolv.conf.
// Writes: nothing outside memory.
package dns
