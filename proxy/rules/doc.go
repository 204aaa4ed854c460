// Package rules turns Services and their endpoints into iptables rules. It is pure: values in, text out.
//
// One chain serves one port of a Service; endpoints are rules in it, not chains of their own:
//
//	nat PREROUTING, OUTPUT
//	 └ MOTE-SERVICES          marks what the node routes to Services for others; then by /24 of the virtual address
//	    ├ MOTE-VIP-10.43.7    one rule for each address and port
//	    │  ├ MOTE-SVC-<port>  any endpoint: statistic match, DNAT
//	    │  ├ MOTE-LOC-<port>  endpoints on this node only (traffic policy Local)
//	    │  ├ MOTE-EXT-<port>  from outside the cluster: masquerades or keeps to this node, then one of the above
//	    │  └ MOTE-FW-<port>   load balancer source ranges, then MOTE-EXT
//	    └ MOTE-NODEPORTS      to any address of the node → MOTE-EXT
//	nat POSTROUTING
//	 └ MOTE-POSTROUTING       masquerades marked packets, and pods that reached themselves (→ MOTE-HAIRPIN)
//	filter INPUT, FORWARD, OUTPUT (new connections)
//	 └ MOTE-FILTER            rejects what has no endpoint, drops what policies and source ranges exclude
//	filter FORWARD
//	 └ MOTE-FORWARD           drops packets out of a connection's window, lets translated connections pass
//
// Only untranslated packets still carry a virtual address in the filter table: so its rules need no exceptions.
//
// Reads:  nothing.
// Writes: nothing.
package rules
