// Package cni is Mote's network plugin, CNI 1.1: one bridge a node, a veth pair and an address for each pod, host
// ports. The runtime executes it once per pod, so starting fast matters: it uses netlink directly and starts an
// iptables program only when the node is new to it or a pod has host ports.
//
// A pod gets its address as a /32 with the bridge's address as its only next hop. So all of a pod's traffic, also that
// to a pod beside it, is routed by the node and passes its rules: Services work between neighbours whether
// bridge-nf-call-iptables is on or off, and nobody's setting of it is touched. MAC addresses derive from IPv4 addresses, so that a reused
// address finds no stale neighbour entry anywhere.
//
//	pod netns                    node
//	eth0 10.42.0.5/32 ── veth ── mote1a2b3c4d5e ─ mote0 10.42.0.1/24 ─ routing ─ uplink
//	default via 10.42.0.1
//
// Rules (all in chains called MOTE-CNI-* or MOTE-HP-*):
//
//	nat PREROUTING, OUTPUT → MOTE-CNI-HOSTPORT → MOTE-HP-<attachment>   DNAT of host ports
//	nat POSTROUTING → MOTE-CNI-MASQ       pods to the world, and hairpinned host ports, leave under the node's address
//	filter FORWARD  → MOTE-CNI-FORWARD    pods may be reached where the node's policy is to drop
//	filter INPUT    → MOTE-CNI-INPUT      127.0.0.0/8 stays unreachable for pods though route_localnet is on
//
// Reads:  the network configuration on stdin, CNI_* variables.
// Writes: links, addresses, routes and sysctls of the bridge and of pods' network namespaces; chains MOTE-CNI-* and
// MOTE-HP-*; the configuration's dataDir.
package cni
