package deployment

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// hashLabel tells the pods and ReplicaSets of one template from those of another.
const hashLabel = appsv1.DefaultDeploymentUniqueLabelKey

// sets are the ReplicaSets of a Deployment: the one with its present template, if there is one, and the older ones, by
// age, oldest first.
type sets struct {
	current *appsv1.ReplicaSet
	old     []*appsv1.ReplicaSet
}

// sortOut finds the current ReplicaSet. If several have the same template the oldest counts, so that the answer stays.
func sortOut(d *appsv1.Deployment, all []*appsv1.ReplicaSet) sets {
	all = slices.Clone(all)
	slices.SortFunc(all, compareAge)
	var s sets
	for _, rs := range all {
		if s.current == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			s.current = rs
		} else {
			s.old = append(s.old, rs)
		}
	}
	return s
}

// all lists every ReplicaSet, the current one last.
func (s sets) all() []*appsv1.ReplicaSet {
	if s.current == nil {
		return s.old
	}
	return append(slices.Clone(s.old), s.current)
}

// sameTemplate compares without the hash label, which a Deployment's own template lacks.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	ma, mb := a.ObjectMeta, b.ObjectMeta
	ma.Labels, mb.Labels = withoutHash(ma.Labels), withoutHash(mb.Labels)
	return equality.Semantic.DeepEqual(ma, mb) && equality.Semantic.DeepEqual(&a.Spec, &b.Spec)
}

func withoutHash(l map[string]string) map[string]string {
	if _, ok := l[hashLabel]; !ok {
		return l
	}
	l = maps.Clone(l)
	delete(l, hashLabel)
	return l
}

func compareAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

func active(all []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	return slices.DeleteFunc(slices.Clone(all), func(rs *appsv1.ReplicaSet) bool { return size(rs) == 0 })
}

func size(rs *appsv1.ReplicaSet) int32 {
	if rs.Spec.Replicas == nil {
		return 1
	}
	return *rs.Spec.Replicas
}

func wanted(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

func sum(all []*appsv1.ReplicaSet, f func(*appsv1.ReplicaSet) int32) (n int32) {
	for _, rs := range all {
		n += f(rs)
	}
	return n
}

func isRolling(d *appsv1.Deployment) bool {
	return d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType
}

// fenceposts are how many pods may exist above the wanted number, and how many of the wanted may be missing. They
// can't both be zero: nothing would ever move. Percentages of surge are rounded up, of unavailability down.
func fenceposts(d *appsv1.Deployment) (surge, unavailable int32) {
	want := wanted(d)
	if !isRolling(d) {
		return 0, 0
	}
	if r := d.Spec.Strategy.RollingUpdate; r != nil {
		surge = scaled(r.MaxSurge, want, true)
		unavailable = scaled(r.MaxUnavailable, want, false)
	}
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, want)
}

func scaled(v *intstr.IntOrString, of int32, up bool) int32 {
	if v == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, int(of), up)
	if err != nil {
		return 0 // validation lets nothing else than numbers and percentages pass
	}
	return int32(n)
}

// number reads a count from an annotation.
func number(rs *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[key], 10, 32)
	if err != nil || n < 0 {
		return 0, false
	}
	return int32(n), true
}
