// Package apps holds the resources of apps/v1: deployments, replica sets,
// stateful sets, daemon sets and controller revisions.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package apps

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of apps/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	if err := resource.AddAll(c, to, &daemonSets, &controllerRevisions); err != nil {
		return nil, err
	}
	if err := resource.AddScaled(&deployments, c, to, deploymentScale); err != nil {
		return nil, err
	}
	if err := resource.AddScaled(&replicaSets, c, to, replicaSetScale); err != nil {
		return nil, err
	}
	return to, resource.AddScaled(&statefulSets, c, to, statefulSetScale)
}

var all = []string{"all"}

var deployments = resource.Descriptor[*appsv1.Deployment]{
	GV: appsv1.SchemeGroupVersion, Plural: "deployments", Singular: "deployment",
	ShortNames: []string{"deploy"}, Categories: all,
	New:       func() *appsv1.Deployment { return &appsv1.Deployment{} },
	NewList:   func() runtime.Object { return &appsv1.DeploymentList{} },
	HasStatus: true, Generation: true, StatusKeepsLabels: true,
	// Annotations carry the deployment's revision and pause reason, which
	// rollout tools wait on, so they count too.
	GenerationOf: func(d *appsv1.Deployment) any { return []any{d.Spec, d.Annotations} },
	WarnCreate:   func(_ context.Context, d *appsv1.Deployment) []string { return warnName(d.Name) },
	Columns: append([]resource.Column[*appsv1.Deployment]{
		resource.Name[*appsv1.Deployment](),
		{Name: "Ready", Doc: "Number of the pod with ready state", Value: func(d *appsv1.Deployment) any {
			return fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, ptr.Deref(d.Spec.Replicas, 0))
		}},
		{Name: "Up-to-date", Value: func(d *appsv1.Deployment) any { return int64(d.Status.UpdatedReplicas) }},
		{Name: "Available", Value: func(d *appsv1.Deployment) any { return int64(d.Status.AvailableReplicas) }},
		resource.Age[*appsv1.Deployment](),
	}, resource.Pods(func(d *appsv1.Deployment) *corev1.PodSpec { return &d.Spec.Template.Spec },
		func(d *appsv1.Deployment) string {
			s, err := resource.Selected(d.Spec.Selector)
			if err != nil {
				return "<invalid>"
			}
			return s
		})...),
}

var deploymentScale = resource.Scale[*appsv1.Deployment]{
	Replicas:    func(d *appsv1.Deployment) int32 { return ptr.Deref(d.Spec.Replicas, 0) },
	SetReplicas: func(d *appsv1.Deployment, n int32) { d.Spec.Replicas = &n },
	Current:     func(d *appsv1.Deployment) int32 { return d.Status.Replicas },
	Selector:    func(d *appsv1.Deployment) (string, error) { return resource.Selected(d.Spec.Selector) },
}

var replicaSets = resource.Descriptor[*appsv1.ReplicaSet]{
	GV: appsv1.SchemeGroupVersion, Plural: "replicasets", Singular: "replicaset",
	ShortNames: []string{"rs"}, Categories: all,
	New:       func() *appsv1.ReplicaSet { return &appsv1.ReplicaSet{} },
	NewList:   func() runtime.Object { return &appsv1.ReplicaSetList{} },
	HasStatus: true, Generation: true,
	Fields: func(r *appsv1.ReplicaSet) fields.Set {
		return fields.Set{"status.replicas": strconv.Itoa(int(r.Status.Replicas))}
	},
	WarnCreate: func(_ context.Context, r *appsv1.ReplicaSet) []string { return warnName(r.Name) },
	Columns: append([]resource.Column[*appsv1.ReplicaSet]{
		resource.Name[*appsv1.ReplicaSet](),
		{Name: "Desired", Type: "integer", Value: func(r *appsv1.ReplicaSet) any { return int64(ptr.Deref(r.Spec.Replicas, 0)) }},
		{Name: "Current", Type: "integer", Value: func(r *appsv1.ReplicaSet) any { return int64(r.Status.Replicas) }},
		{Name: "Ready", Type: "integer", Value: func(r *appsv1.ReplicaSet) any { return int64(r.Status.ReadyReplicas) }},
		resource.Age[*appsv1.ReplicaSet](),
	}, resource.Pods(func(r *appsv1.ReplicaSet) *corev1.PodSpec { return &r.Spec.Template.Spec },
		func(r *appsv1.ReplicaSet) string { return resource.Selector(r.Spec.Selector) })...),
}

var replicaSetScale = resource.Scale[*appsv1.ReplicaSet]{
	Replicas:    func(r *appsv1.ReplicaSet) int32 { return ptr.Deref(r.Spec.Replicas, 0) },
	SetReplicas: func(r *appsv1.ReplicaSet, n int32) { r.Spec.Replicas = &n },
	Current:     func(r *appsv1.ReplicaSet) int32 { return r.Status.Replicas },
	Selector:    func(r *appsv1.ReplicaSet) (string, error) { return resource.Selected(r.Spec.Selector) },
}

var statefulSets = resource.Descriptor[*appsv1.StatefulSet]{
	GV: appsv1.SchemeGroupVersion, Plural: "statefulsets", Singular: "statefulset",
	ShortNames: []string{"sts"}, Categories: all,
	New:       func() *appsv1.StatefulSet { return &appsv1.StatefulSet{} },
	NewList:   func() runtime.Object { return &appsv1.StatefulSetList{} },
	NameRule:  statefulSetName,
	HasStatus: true, Generation: true,
	Columns: append([]resource.Column[*appsv1.StatefulSet]{
		resource.Name[*appsv1.StatefulSet](),
		{Name: "Ready", Doc: "Number of the pod with ready state", Value: func(s *appsv1.StatefulSet) any {
			return fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, ptr.Deref(s.Spec.Replicas, 0))
		}},
		resource.Age[*appsv1.StatefulSet](),
	}, resource.Pods(func(s *appsv1.StatefulSet) *corev1.PodSpec { return &s.Spec.Template.Spec }, nil)...),
}

// statefulSetName has no dots: it becomes part of its pods' host names.
func statefulSetName(name string, prefix bool) []string {
	msgs := validation.NameIsDNSSubdomain(name, prefix)
	if strings.Contains(name, ".") {
		msgs = append(msgs, "must not contain dots")
	}
	return msgs
}

var statefulSetScale = resource.Scale[*appsv1.StatefulSet]{
	Replicas:    func(s *appsv1.StatefulSet) int32 { return ptr.Deref(s.Spec.Replicas, 0) },
	SetReplicas: func(s *appsv1.StatefulSet, n int32) { s.Spec.Replicas = &n },
	Current:     func(s *appsv1.StatefulSet) int32 { return s.Status.Replicas },
	Selector:    func(s *appsv1.StatefulSet) (string, error) { return resource.Selected(s.Spec.Selector) },
}

var daemonSets = resource.Descriptor[*appsv1.DaemonSet]{
	GV: appsv1.SchemeGroupVersion, Plural: "daemonsets", Singular: "daemonset",
	ShortNames: []string{"ds"}, Categories: all,
	New:       func() *appsv1.DaemonSet { return &appsv1.DaemonSet{} },
	NewList:   func() runtime.Object { return &appsv1.DaemonSetList{} },
	HasStatus: true, Generation: true,
	PrepareCreate: func(_ context.Context, d *appsv1.DaemonSet) {
		if templateGeneration(d) < 1 {
			setTemplateGeneration(d, 1)
		}
	},
	PrepareUpdate: func(_ context.Context, d, old *appsv1.DaemonSet) {
		n := templateGeneration(old)
		if !apiequality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
			n++
		}
		setTemplateGeneration(d, n)
	},
	Columns: append([]resource.Column[*appsv1.DaemonSet]{
		resource.Name[*appsv1.DaemonSet](),
		{Name: "Desired", Type: "integer", Value: func(d *appsv1.DaemonSet) any { return int64(d.Status.DesiredNumberScheduled) }},
		{Name: "Current", Type: "integer", Value: func(d *appsv1.DaemonSet) any { return int64(d.Status.CurrentNumberScheduled) }},
		{Name: "Ready", Type: "integer", Value: func(d *appsv1.DaemonSet) any { return int64(d.Status.NumberReady) }},
		{Name: "Up-to-date", Type: "integer", Value: func(d *appsv1.DaemonSet) any { return int64(d.Status.UpdatedNumberScheduled) }},
		{Name: "Available", Type: "integer", Value: func(d *appsv1.DaemonSet) any { return int64(d.Status.NumberAvailable) }},
		{Name: "Node Selector", Value: func(d *appsv1.DaemonSet) any { return resource.Labels(d.Spec.Template.Spec.NodeSelector) }},
		resource.Age[*appsv1.DaemonSet](),
	}, resource.Pods(func(d *appsv1.DaemonSet) *corev1.PodSpec { return &d.Spec.Template.Spec },
		func(d *appsv1.DaemonSet) string { return resource.Selector(d.Spec.Selector) })...),
}

// templateGeneration is a field that apps/v1 no longer has; it lives on as an
// annotation, which old tools and the daemon set controller still read.
func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}

var controllerRevisions = resource.Descriptor[*appsv1.ControllerRevision]{
	GV: appsv1.SchemeGroupVersion, Plural: "controllerrevisions", Singular: "controllerrevision",
	New:     func() *appsv1.ControllerRevision { return &appsv1.ControllerRevision{} },
	NewList: func() runtime.Object { return &appsv1.ControllerRevisionList{} },
	Columns: []resource.Column[*appsv1.ControllerRevision]{
		resource.Name[*appsv1.ControllerRevision](),
		{Name: "Controller", Doc: "Controller of the object", Value: controllerOf},
		{Name: "Revision", Value: func(r *appsv1.ControllerRevision) any { return r.Revision }},
		resource.Age[*appsv1.ControllerRevision](),
	},
}

func controllerOf(r *appsv1.ControllerRevision) any {
	ref := metav1.GetControllerOf(r)
	if ref == nil {
		return resource.None
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return resource.None
	}
	kind := schema.GroupKind{Group: gv.Group, Kind: ref.Kind}
	return strings.ToLower(kind.String()) + "/" + ref.Name
}

func warnName(name string) []string {
	if msgs := utilvalidation.IsDNS1123Label(name); len(msgs) != 0 {
		return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs)}
	}
	return nil
}
