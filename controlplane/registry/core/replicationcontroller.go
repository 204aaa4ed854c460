package core

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

var replicationControllers = resource.Descriptor[*corev1.ReplicationController]{
	GV: corev1.SchemeGroupVersion, Plural: "replicationcontrollers", Singular: "replicationcontroller",
	ShortNames: []string{"rc"}, Categories: []string{"all"},
	New:       func() *corev1.ReplicationController { return &corev1.ReplicationController{} },
	NewList:   func() runtime.Object { return &corev1.ReplicationControllerList{} },
	HasStatus: true, Generation: true,
	// What v1 has always done with the pods of a deleted controller.
	GarbageCollection: rest.OrphanDependents,
	Fields: func(r *corev1.ReplicationController) fields.Set {
		return fields.Set{"status.replicas": strconv.Itoa(int(r.Status.Replicas))}
	},
	Columns: append([]resource.Column[*corev1.ReplicationController]{
		resource.Name[*corev1.ReplicationController](),
		{Name: "Desired", Type: "integer", Value: func(r *corev1.ReplicationController) any { return int64(ptr.Deref(r.Spec.Replicas, 0)) }},
		{Name: "Current", Type: "integer", Value: func(r *corev1.ReplicationController) any { return int64(r.Status.Replicas) }},
		{Name: "Ready", Type: "integer", Value: func(r *corev1.ReplicationController) any { return int64(r.Status.ReadyReplicas) }},
		resource.Age[*corev1.ReplicationController](),
	}, resource.Pods(func(r *corev1.ReplicationController) *corev1.PodSpec {
		if r.Spec.Template == nil {
			return &corev1.PodSpec{}
		}
		return &r.Spec.Template.Spec
	}, func(r *corev1.ReplicationController) string { return resource.Labels(r.Spec.Selector) })...),
}

var replicationControllerScale = resource.Scale[*corev1.ReplicationController]{
	Replicas:    func(r *corev1.ReplicationController) int32 { return ptr.Deref(r.Spec.Replicas, 0) },
	SetReplicas: func(r *corev1.ReplicationController, n int32) { r.Spec.Replicas = &n },
	Current:     func(r *corev1.ReplicationController) int32 { return r.Status.Replicas },
	Selector: func(r *corev1.ReplicationController) (string, error) {
		return labels.SelectorFromSet(r.Spec.Selector).String(), nil
	},
}
