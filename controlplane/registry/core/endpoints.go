package core

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

var endpoints = resource.Descriptor[*corev1.Endpoints]{
	GV: corev1.SchemeGroupVersion, Plural: "endpoints", Singular: "endpoints", ShortNames: []string{"ep"},
	New:            func() *corev1.Endpoints { return &corev1.Endpoints{} },
	NewList:        func() runtime.Object { return &corev1.EndpointsList{} },
	CreateOnUpdate: true,
	Columns: []resource.Column[*corev1.Endpoints]{
		resource.Name[*corev1.Endpoints](),
		{Name: "Endpoints", Value: func(e *corev1.Endpoints) any { return endpointList(e) }},
		resource.Age[*corev1.Endpoints](),
	},
}

// endpointList shows the first three addresses and how many more there are.
func endpointList(e *corev1.Endpoints) string {
	var all []string
	for _, s := range e.Subsets {
		if len(s.Ports) == 0 { // a headless Service may have none
			for _, a := range s.Addresses {
				all = append(all, a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				all = append(all, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	switch n := len(all); {
	case n == 0 && len(e.Subsets) == 0:
		return resource.None
	case n > 3:
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:3], ","), n-3)
	}
	return strings.Join(all, ",")
}
