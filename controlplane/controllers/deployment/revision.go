package deployment

import (
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/mote-edge/mote/controlplane/controllers/revision"
)

// The annotations that a Deployment keeps on its ReplicaSets; kubectl reads the first two.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// historyLimit bounds the characters of the revision history annotation.
const historyLimit = 2000

// notCopied are the annotations of a Deployment that are not handed on to its current ReplicaSet.
var notCopied = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true, revisionAnnotation: true, historyAnnotation: true,
	desiredAnnotation: true, maxAnnotation: true, appsv1.DeprecatedRollbackTo: true,
}

func revisionOf(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// nextRevision is the number of the current template if it is not older than any of the old ReplicaSets.
func nextRevision(old []*appsv1.ReplicaSet) int64 {
	highest := int64(0)
	for _, rs := range old {
		highest = max(highest, revisionOf(rs))
	}
	return highest + 1
}

// annotations returns the annotations that the current ReplicaSet should have: the Deployment's own, and a revision of
// at least next. A revision that is replaced, since the template is in use again, goes to the history. The result is
// the ReplicaSet's own map if nothing changes. A revision that is no number is left alone.
func annotations(d *appsv1.Deployment, rs *appsv1.ReplicaSet, next int64) (want map[string]string, changed bool) {
	want = maps.Clone(rs.Annotations)
	if want == nil {
		want = map[string]string{}
	}
	for k, v := range d.Annotations {
		if !notCopied[k] {
			want[k] = v
		}
	}
	was, had := rs.Annotations[revisionAnnotation]
	n, err := strconv.ParseInt(was, 10, 64)
	if was != "" && err != nil {
		return rs.Annotations, false
	}
	if n < next {
		want[revisionAnnotation] = strconv.FormatInt(next, 10)
		if had {
			want[historyAnnotation] = addHistory(rs.Annotations[historyAnnotation], was)
		}
	}
	if maps.Equal(want, rs.Annotations) {
		return rs.Annotations, false
	}
	return want, true
}

func addHistory(history, was string) string {
	if history == "" {
		return was
	}
	history += "," + was
	for len(history) > historyLimit {
		_, rest, more := strings.Cut(history, ",")
		if !more {
			break
		}
		history = rest
	}
	return history
}

// sizeAnnotations records for which size of the Deployment a ReplicaSet was sized. It says whether that was news.
func sizeAnnotations(d *appsv1.Deployment, rs *appsv1.ReplicaSet) (add map[string]string, changed bool) {
	surge, _ := fenceposts(d)
	desired, highest := strconv.Itoa(int(wanted(d))), strconv.Itoa(int(wanted(d)+surge))
	changed = rs.Annotations[desiredAnnotation] != desired || rs.Annotations[maxAnnotation] != highest
	return map[string]string{desiredAnnotation: desired, maxAnnotation: highest}, changed
}

// newSet makes the ReplicaSet of the Deployment's present template.
func newSet(d *appsv1.Deployment, old []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	hash := revision.TemplateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := d.Spec.Template.DeepCopy()
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	template.Labels[hashLabel] = hash
	selector := d.Spec.Selector.DeepCopy()
	if selector.MatchLabels == nil {
		selector.MatchLabels = map[string]string{}
	}
	selector.MatchLabels[hashLabel] = hash
	n := newSize(d, sum(old, size), 0)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            setName(d.Name, hash),
			Namespace:       d.Namespace,
			Labels:          maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &n, MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *template,
		},
	}
	rs.Annotations, _ = annotations(d, rs, nextRevision(old))
	add, _ := sizeAnnotations(d, rs)
	maps.Copy(rs.Annotations, add)
	return rs
}

func setName(deployment, hash string) string {
	if room := validation.DNS1123SubdomainMaxLength - len(hash) - 1; len(deployment) > room {
		deployment = deployment[:room]
	}
	return deployment + "-" + hash
}
