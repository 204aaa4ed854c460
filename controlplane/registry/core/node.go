package core

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

var nodes = resource.Descriptor[*corev1.Node]{
	GV: corev1.SchemeGroupVersion, Plural: "nodes", Cached: true, Singular: "node", Cluster: true, ShortNames: []string{"no"},
	New:       func() *corev1.Node { return &corev1.Node{} },
	NewList:   func() runtime.Object { return &corev1.NodeList{} },
	HasStatus: true, StatusOnCreate: true,
	Fields: func(n *corev1.Node) fields.Set {
		return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
	},
	Columns: []resource.Column[*corev1.Node]{
		resource.Name[*corev1.Node](),
		{Name: "Status", Doc: "The status of the node", Value: nodeStatus},
		{Name: "Roles", Doc: "The roles of the node", Value: nodeRoles},
		resource.Age[*corev1.Node](),
		{Name: "Version", Value: func(n *corev1.Node) any { return n.Status.NodeInfo.KubeletVersion }},
		{Name: "Internal-IP", Wide: true, Value: func(n *corev1.Node) any { return nodeAddress(n, corev1.NodeInternalIP) }},
		{Name: "External-IP", Wide: true, Value: func(n *corev1.Node) any { return nodeAddress(n, corev1.NodeExternalIP) }},
		{Name: "OS-Image", Wide: true, Value: func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.OSImage) }},
		{Name: "Kernel-Version", Wide: true, Value: func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.KernelVersion) }},
		{Name: "Container-Runtime", Wide: true, Value: func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.ContainerRuntimeVersion) }},
	},
}

func nodeStatus(n *corev1.Node) any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = "Not" + string(corev1.NodeReady)
			if c.Status == corev1.ConditionTrue {
				status = string(corev1.NodeReady)
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *corev1.Node) any {
	var roles []string
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			roles = append(roles, role)
		} else if k == "kubernetes.io/role" && v != "" {
			roles = append(roles, v)
		}
	}
	slices.Sort(roles)
	return resource.OrNone(strings.Join(slices.Compact(roles), ","))
}

func nodeAddress(n *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return resource.None
}

func orUnknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}
