package statefulset

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/mote-edge/mote/controlplane/controllers/workloadtest"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

func newSet(n int32, edit ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	l := map[string]string{"app": "db"}
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "default", UID: "set"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &n, ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "one"}}},
			},
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{
				Type:          appsv1.RollingUpdateStatefulSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr(int32(0))},
			},
		},
	}
	for _, e := range edit {
		e(s)
	}
	return s
}

func parallel(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }

func atMost(n string) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr(intstr.Parse(n)) }
}

func partition(n int32) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = &n }
}

// see reads pods like "0:new+ 1:old- 2:new~": + available, - not ready, ~ being deleted, ! failed, ? pending.
func see(s *appsv1.StatefulSet, text string) view {
	v := view{set: s, current: "old", update: "new", now: epoch, blocked: func(string) bool { return false }}
	for _, word := range strings.Fields(text) {
		n, what, _ := strings.Cut(word, ":")
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: "db-" + n, Namespace: "default", UID: types.UID(n), Labels: map[string]string{appsv1.StatefulSetRevisionLabel: what[:3]},
		}}
		p.Status = workloadtest.ReadyStatus(what[3] == '+' || what[3] == '~', epoch.Add(-time.Hour))
		switch what[3] {
		case '~':
			p.DeletionTimestamp = &metav1.Time{Time: epoch}
		case '!':
			p.Status.Phase = corev1.PodFailed
		case '?':
			p.Status.Phase = corev1.PodPending
		}
		v.pods = append(v.pods, p)
	}
	return v
}

func show(p plan) string {
	var out []string
	for _, n := range p.create {
		out = append(out, fmt.Sprintf("+%d", n))
	}
	for _, pod := range p.remove {
		out = append(out, "-"+strings.TrimPrefix(pod.Name, "db-"))
	}
	return strings.Join(out, " ")
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name string
		set  *appsv1.StatefulSet
		pods string
		want string
	}{
		{"the first", newSet(3), "", "+0"},
		{"waits for it", newSet(3), "0:new-", ""},
		{"the second", newSet(3), "0:new+", "+1"},
		{"a gap", newSet(3), "0:new+ 2:new+", "+1"},
		{"complete", newSet(2), "0:new+ 1:new+", ""},
		{"a failed one is deleted first", newSet(2), "0:new! 1:new+", "-0"},
		{"one on its way out is waited for", newSet(2), "0:new~ 1:new+", ""},
		{"all at once", newSet(3, parallel), "", "+0 +1 +2"},
		{"all the gaps", newSet(3, parallel), "1:new-", "+0 +2"},
		{"start ordinal", newSet(2, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5} }), "5:new+", "+6"},

		{"shrink, the highest first", newSet(1), "0:new+ 1:new+ 2:new+", "-2"},
		{"waits for the end of it", newSet(1), "0:new+ 1:new+ 2:new~", ""},
		{"a healthy one goes, whatever its neighbours", newSet(1), "0:new+ 1:new- 2:new+", "-2"},
		{"a sick one goes if it is the first sick one", newSet(1), "0:new+ 1:new+ 2:new-", "-2"},
		{"a sick one behind another sick one waits", newSet(1), "0:new+ 1:new- 2:new-", ""},
		{"no shrinking while a kept one is sick", newSet(1), "0:new- 1:new+", ""},
		{"shrink all at once", newSet(1, parallel), "0:new- 1:new+ 2:new-", "-2 -1"},
		{"to nothing", newSet(0), "0:new+", "-0"},
		{"numbers below the start go", newSet(1, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 1} }), "0:new+ 1:new+", "-0"},

		{"update from the highest", newSet(3), "0:old+ 1:old+ 2:old+", "-2"},
		{"goes on", newSet(3), "0:old+ 1:old+ 2:new+", "-1"},
		{"waits", newSet(3), "0:old+ 1:old+ 2:new-", ""},
		{"partition", newSet(3, partition(2)), "0:old+ 1:old+ 2:old+", "-2"},
		{"partition reached", newSet(3, partition(2)), "0:old+ 1:old+ 2:new+", ""},
		{"two may be down", newSet(4, atMost("2")), "0:old+ 1:old+ 2:old+ 3:old+", "-3 -2"},
		{"half may be down", newSet(4, atMost("50%")), "0:old+ 1:old+ 2:old+ 3:old+", "-3 -2"},
		{"little is at least one", newSet(4, atMost("1%")), "0:old+ 1:old+ 2:old+ 3:old+", "-3"},
		{"on delete", newSet(2, func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType }), "0:old+ 1:old+", ""},
		{"scaling comes before updating", newSet(3), "0:old+ 1:old+", "+2"},
		{"parallel: one at a time too", newSet(3, parallel), "0:old+ 1:old+ 2:old+", "-2"},
		{"parallel: within the budget", newSet(3, parallel, atMost("2")), "0:old+ 1:old+ 2:new-", "-1"},
		{"parallel: sick old ones at once", newSet(3, parallel), "0:old- 1:old- 2:old+", "-1 -0"},
		{"parallel: not what is being deleted", newSet(2, parallel), "0:old~ 1:old+", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := show(decide(see(c.set, c.pods))); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	v := see(newSet(1), "")
	v.blocked = func(pod string) bool { return pod == "db-0" }
	if got := show(decide(v)); got != "" {
		t.Errorf("a pod whose claim is still an earlier one's: got %q", got)
	}
}

func TestStatus(t *testing.T) {
	v := see(newSet(3), "0:old+ 1:new- 2:new~ 7:old+")
	st, _ := status(v, 0)
	if st.Replicas != 4 || st.ReadyReplicas != 3 || st.AvailableReplicas != 3 || st.CurrentReplicas != 2 || st.UpdatedReplicas != 1 ||
		st.CurrentRevision != "old" || st.UpdateRevision != "new" {
		t.Errorf("%+v", st)
	}
	st, _ = status(see(newSet(2), "0:new+ 1:new+"), 0)
	if st.CurrentRevision != "new" || st.CurrentReplicas != 2 {
		t.Errorf("a finished update: %+v", st)
	}
	s := newSet(1)
	s.Spec.MinReadySeconds = 3605
	st, recheck := status(see(s, "0:new+"), 0)
	if st.AvailableReplicas != 0 || recheck != 5*time.Second {
		t.Errorf("available %d, again in %v", st.AvailableReplicas, recheck)
	}
}

func TestOnCurrent(t *testing.T) {
	s := newSet(3, partition(2), func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 10} })
	if !onCurrent(s, 11) || onCurrent(s, 12) {
		t.Error("numbers below start + partition keep the revision")
	}
	s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
	if onCurrent(s, 10) {
		t.Error("with OnDelete, a new pod is of the new revision")
	}
}

func TestOrdinalOf(t *testing.T) {
	for name, want := range map[string]int{"db-0": 0, "db-12": 12, "db": -1, "db-": -1, "db-x": -1, "db--1": -1, "web-1": -1, "db-1-2": -1, "db-+1": -1, "db-99999999999": -1} {
		if got := ordinalOf("db", name); got != want {
			t.Errorf("%s: %d", name, got)
		}
	}
}

func withClaims(whenDeleted, whenScaled appsv1.PersistentVolumeClaimRetentionPolicyType) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) {
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: whenDeleted, WhenScaled: whenScaled}
	}
}

func TestClaimOwners(t *testing.T) {
	const keep, drop = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	setRef := *metav1.NewControllerRef(newSet(1), kind)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-0", UID: "pod"}}
	surplus := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-1", UID: "pod1"}}
	foreign := metav1.OwnerReference{APIVersion: "x/v1", Kind: "X", Name: "x", UID: "x", Controller: ptr(true)}
	old := setRef
	old.UID = "earlier"
	for _, c := range []struct {
		name                    string
		whenDeleted, whenScaled appsv1.PersistentVolumeClaimRetentionPolicyType
		pod                     *corev1.Pod
		have                    []metav1.OwnerReference
		want                    string
		conflict                bool
	}{
		{"keep", keep, keep, pod, nil, "", false},
		{"keep takes references away", keep, keep, pod, []metav1.OwnerReference{setRef}, "", false},
		{"goes with the set", drop, keep, pod, nil, "set", false},
		{"goes with the set, surplus too", drop, keep, surplus, nil, "set", false},
		{"goes with a surplus pod", keep, drop, surplus, nil, "pod1", false},
		{"not with one that is wanted", keep, drop, pod, nil, "", false},
		{"both, wanted", drop, drop, pod, nil, "set", false},
		{"both, surplus", drop, drop, surplus, []metav1.OwnerReference{setRef}, "pod1", false},
		{"another controller keeps it", drop, drop, pod, []metav1.OwnerReference{foreign, setRef}, "x", true},
		{"another controller doesn't matter", keep, keep, pod, []metav1.OwnerReference{foreign}, "x", false},
		{"an earlier set's claim is left alone", drop, drop, pod, []metav1.OwnerReference{old}, "earlier", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSet(1, withClaims(c.whenDeleted, c.whenScaled))
			claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{OwnerReferences: c.have}}
			refs, conflict := claimOwners(claim, s, c.pod)
			var got []string
			for _, r := range refs {
				got = append(got, string(r.UID))
			}
			if s := strings.Join(got, " "); s != c.want || conflict != c.conflict {
				t.Errorf("got %q, conflict %v", s, conflict)
			}
		})
	}
}

func TestNewPod(t *testing.T) {
	s := newSet(1, withClaims("Retain", "Retain"))
	s.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data"}, {Name: "tmp"}}
	p := newPod(s, &s.Spec.Template, "rev", 3)
	if p.Name != "db-3" || p.GenerateName != "" || p.Spec.Hostname != "db-3" || p.Spec.Subdomain != "db" ||
		p.Labels[appsv1.PodIndexLabel] != "3" || p.Labels[appsv1.StatefulSetPodNameLabel] != "db-3" || revisionOf(p) != "rev" {
		t.Errorf("%+v", p.ObjectMeta)
	}
	if len(p.Spec.Volumes) != 2 || p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-db-3" || p.Spec.Volumes[1].Name != "tmp" {
		t.Errorf("volumes %v", p.Spec.Volumes)
	}
	if c := claims(s, p); len(c) != 1 || c[0].Name != "data-db-3" || c[0].Labels["app"] != "db" || c[0].OwnerReferences != nil {
		t.Errorf("claims %v", c)
	}
}

func TestController(t *testing.T) {
	c := workloadtest.New(t, newSet(3, withClaims("Delete", "Retain")))
	ctl, err := New(c.Client, c.Informers, c.Recorder)
	if err != nil {
		t.Fatal(err)
	}
	c.Start(ctl.Run)
	var mu sync.Mutex
	var order []string
	c.Start(func(ctx context.Context) error { // kubelet
		for ctx.Err() == nil {
			for _, p := range c.Pods() {
				if p.Status.Phase == "" {
					mu.Lock()
					order = append(order, p.Name)
					mu.Unlock()
					p.Status = workloadtest.ReadyStatus(true, time.Now())
					_, _ = c.Client.CoreV1().Pods("default").UpdateStatus(ctx, &p, metav1.UpdateOptions{})
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	})
	get := func() *appsv1.StatefulSet {
		s, err := c.Client.AppsV1().StatefulSets("default").Get(context.Background(), "db", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	update := func(change func(*appsv1.StatefulSet)) {
		for {
			s := get()
			change(s)
			_, err := c.Client.AppsV1().StatefulSets("default").Update(context.Background(), s, metav1.UpdateOptions{})
			if err == nil {
				return
			}
			if !apierrors.IsConflict(err) {
				t.Fatal(err)
			}
		}
	}
	rolled := func(n int32, image string) func() bool {
		return func() bool {
			s := get()
			for _, p := range c.Pods() {
				if p.Spec.Containers[0].Image != image {
					return false
				}
			}
			st := s.Status
			return st.ReadyReplicas == n && st.Replicas == n && st.UpdatedReplicas == n && st.CurrentRevision == st.UpdateRevision && st.ObservedGeneration == s.Generation
		}
	}
	c.Eventually("three pods are ready", rolled(3, "one"))
	mu.Lock()
	got := strings.Join(order[:3], " ")
	mu.Unlock()
	if got != "db-0 db-1 db-2" {
		t.Errorf("order %q", got)
	}
	claim, err := c.Client.CoreV1().PersistentVolumeClaims("default").Get(context.Background(), "data-db-1", metav1.GetOptions{})
	if err != nil || !metav1.IsControlledBy(claim, get()) {
		t.Errorf("claim %v, %v", claim, err)
	}
	first := get().Status.UpdateRevision
	update(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "two" })
	c.Eventually("the update is rolled out", rolled(3, "two"))
	if get().Status.UpdateRevision == first {
		t.Error("the revision must change")
	}
	update(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "one" })
	c.Eventually("it is undone", rolled(3, "one"))
	if get().Status.UpdateRevision != first {
		t.Error("the first revision must be in use again")
	}
	update(func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr(int32(1)) })
	c.Eventually("it is scaled down", rolled(1, "one"))
	if p := c.Pods(); len(p) != 1 || p[0].Name != "db-0" {
		t.Errorf("%d pods", len(p))
	}
}
