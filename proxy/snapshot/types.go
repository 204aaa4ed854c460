// Package snapshot holds what the service proxy and the cluster DNS need to know of Services and EndpointSlices, and of
// this node's zone: one watch each, converted to compact values as they arrive. The API objects themselves are not kept.
//
// Reads:  Services, EndpointSlices and this Node, from the API server.
// Writes: nothing outside memory.
package snapshot

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Name names a Service.
type Name struct{ Namespace, Name string }

func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Service is the part of a Service that rules and names are made from. It is never changed once it is published.
type Service struct {
	Name
	Type         corev1.ServiceType
	ClusterIPs   []netip.Addr // none for a headless service
	Headless     bool
	ExternalName string
	ExternalIPs  []netip.Addr
	LBIPs        []netip.Addr // load balancer addresses that keep the packet's destination (ipMode VIP)
	SourceRanges []netip.Prefix
	Ports        []Port
	// AffinitySeconds is how long a client keeps its endpoint; 0 is no affinity.
	AffinitySeconds int32
	InternalLocal   bool // internalTrafficPolicy: Local
	ExternalLocal   bool // externalTrafficPolicy: Local
	// HealthCheckPort answers load balancers whether this node has endpoints; 0 is none.
	HealthCheckPort uint16
	// OtherProxy is set when another program or none serves it (labels service.kubernetes.io/service-proxy-name, …/headless).
	OtherProxy bool
}

// Port is a port of a Service.
type Port struct {
	Name     string
	Protocol corev1.Protocol
	Port     uint16
	NodePort uint16 // 0 is none
}

// Slice is an EndpointSlice. It is never changed once it is published.
type Slice struct {
	Service   Name
	Ports     []SlicePort
	Endpoints []Endpoint
	// NamesOnly is set for a slice that rules are not to be made from (label service.kubernetes.io/headless).
	NamesOnly bool
}

// SlicePort is a port on which every endpoint of a slice answers.
type SlicePort struct {
	Name     string
	Protocol corev1.Protocol
	Port     uint16
}

// Endpoint is one address behind a Service.
type Endpoint struct {
	Addr     netip.Addr
	Hostname string
	Local    bool // on this node
	Ready    bool
	// Serving and Terminating endpoints take traffic when no endpoint is ready.
	Serving, Terminating bool
	// HintZones and HintNodes say from where the endpoint should be used; empty is no hint.
	HintZones, HintNodes []string
}
