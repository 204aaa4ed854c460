package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
)

// attachmentHash is the same for every call that concerns one attachment, so that DEL finds what ADD made even when
// nothing else is known.
func attachmentHash(containerID, ifName string) string {
	sum := sha256.Sum256([]byte(containerID + "@" + ifName))
	return hex.EncodeToString(sum[:])
}

// hostIfName is the node's end of an attachment's veth pair: 15 characters, the kernel's limit.
func hostIfName(containerID, ifName string) string {
	return hostIfPrefix + attachmentHash(containerID, ifName)[:11]
}

// hostIfPrefix begins the name of every veth on the node.
const hostIfPrefix = "mote"

// hostPortChain holds the host ports of one attachment: chain names have at most 28 characters.
func hostPortChain(containerID, ifName string) string {
	return hostPortChainPrefix + attachmentHash(containerID, ifName)[:16]
}

// macOf derives a locally administered MAC address from an IPv4 one.
func macOf(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}
