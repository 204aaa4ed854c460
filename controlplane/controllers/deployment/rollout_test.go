package deployment

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func deploy(want int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	deadline := int32(600)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "d", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &want, ProgressDeadlineSeconds: &deadline,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: template("new"),
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u},
			},
		},
	}
}

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
}

// rs makes a ReplicaSet; the later it is made in a test, the younger.
var age int

func rs(name string, size, available int32, annotations ...string) *appsv1.ReplicaSet {
	age++
	r := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID(name), Namespace: "default", Annotations: map[string]string{},
			CreationTimestamp: metav1.NewTime(epoch.Add(time.Duration(age) * time.Second)),
		},
		Spec:   appsv1.ReplicaSetSpec{Replicas: &size, Template: template(name)},
		Status: appsv1.ReplicaSetStatus{Replicas: size, ReadyReplicas: available, AvailableReplicas: available},
	}
	for _, a := range annotations {
		k, v, _ := strings.Cut(a, "=")
		r.Annotations["deployment.kubernetes.io/"+k] = v
	}
	return r
}

func show(steps []step) string {
	var out []string
	for _, s := range steps {
		out = append(out, fmt.Sprintf("%s=%d", s.rs.Name, s.to))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestRoll(t *testing.T) {
	for _, c := range []struct {
		name               string
		want               int32
		surge, unavailable string
		current            *appsv1.ReplicaSet
		old                []*appsv1.ReplicaSet
		steps              string
	}{
		{"nothing to do", 3, "25%", "25%", rs("new", 3, 3), nil, ""},
		{"all the surge first", 10, "3", "2", rs("new", 0, 0), []*appsv1.ReplicaSet{rs("a", 10, 10)}, "new=3"},
		{"then down as far as availability allows", 10, "3", "2", rs("new", 3, 0), []*appsv1.ReplicaSet{rs("a", 10, 10)}, "a=8"},
		{"up again into the room made", 10, "3", "2", rs("new", 3, 0), []*appsv1.ReplicaSet{rs("a", 8, 8)}, "new=5"},
		{"stuck while the new ones are not available", 10, "3", "2", rs("new", 5, 0), []*appsv1.ReplicaSet{rs("a", 8, 8)}, ""},
		{"the last old ones", 10, "3", "2", rs("new", 10, 10), []*appsv1.ReplicaSet{rs("a", 3, 3)}, "a=0"},
		{
			"unhealthy old pods go first, whatever the oldest", 4, "1", "0",
			rs("new", 1, 1),
			[]*appsv1.ReplicaSet{rs("a", 2, 2), rs("b", 2, 0)},
			"b=1",
		},
		{
			"back from a crashlooping template: its pods are the old ones", 10, "3", "2",
			rs("new", 8, 7),
			[]*appsv1.ReplicaSet{rs("bad", 5, 0)},
			"bad=1",
		},
		{"one at a time with surge 1 and nothing unavailable", 2, "1", "0", rs("new", 0, 0), []*appsv1.ReplicaSet{rs("a", 2, 2)}, "new=1"},
		{"and down", 2, "1", "0", rs("new", 1, 1), []*appsv1.ReplicaSet{rs("a", 2, 2)}, "a=1"},
		{"percentages that round to nothing still move", 1, "0", "1%", rs("new", 0, 0), []*appsv1.ReplicaSet{rs("a", 1, 1)}, "a=0"},
		{"the current one shrinks when too large", 3, "1", "1", rs("new", 5, 5), nil, "new=3"},
		{"scaled to zero", 0, "25%", "25%", rs("new", 0, 0), []*appsv1.ReplicaSet{rs("a", 2, 2)}, "a=0"},
		{"old ones oldest first", 6, "2", "2", rs("new", 6, 6), []*appsv1.ReplicaSet{rs("a", 1, 1), rs("b", 1, 1)}, "a=0 b=0"},
		{"empty old ones are left alone", 2, "1", "0", rs("new", 2, 2), []*appsv1.ReplicaSet{rs("a", 0, 0)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := show(roll(deploy(c.want, c.surge, c.unavailable), sets{c.current, c.old}))
			if got != c.steps {
				t.Errorf("got %q, want %q", got, c.steps)
			}
		})
	}
}

// TestRollKeepsItsPromises plays whole rollouts and checks at every move that neither fencepost is crossed.
func TestRollKeepsItsPromises(t *testing.T) {
	for want := int32(1); want <= 12; want++ {
		for _, f := range [][2]string{{"1", "0"}, {"0", "1"}, {"25%", "25%"}, {"100%", "0"}, {"3", "2"}, {"0", "50%"}, {"1%", "1%"}} {
			d := deploy(want, f[0], f[1])
			surge, unavailable := fenceposts(d)
			s := sets{rs("new", 0, 0), []*appsv1.ReplicaSet{rs("a", want/2, want/2), rs("b", want-want/2, want-want/2)}}
			moves := 0
			for ; moves < 100; moves++ {
				steps := roll(d, s)
				for _, st := range steps {
					*st.rs.Spec.Replicas = st.to
					st.rs.Status.Replicas = st.to
					st.rs.Status.AvailableReplicas = min(st.rs.Status.AvailableReplicas, st.to)
				}
				total := sum(s.all(), size)
				available := sum(s.all(), func(r *appsv1.ReplicaSet) int32 { return r.Status.AvailableReplicas })
				if total > want+surge || available < want-unavailable {
					t.Fatalf("want %d, %v: %d pods, %d available after move %d", want, f, total, available, moves)
				}
				if len(steps) == 0 { // the kubelet's turn: one new pod becomes available
					if s.current.Status.AvailableReplicas == size(s.current) {
						break
					}
					s.current.Status.AvailableReplicas++
				}
			}
			if size(s.current) != want || sum(s.old, size) != 0 {
				t.Errorf("want %d, %v: ended with %d new and %d old pods after %d moves", want, f, size(s.current), sum(s.old, size), moves)
			}
		}
	}
}

func TestProportional(t *testing.T) {
	for _, c := range []struct {
		name    string
		want    int32
		surge   string
		current *appsv1.ReplicaSet
		old     []*appsv1.ReplicaSet
		steps   string
	}{
		{"a single active one takes all", 7, "0", rs("new", 5, 5), []*appsv1.ReplicaSet{rs("a", 0, 0)}, "new=7"},
		{"nothing runs: the current one", 2, "0", rs("new", 0, 0), []*appsv1.ReplicaSet{rs("a", 0, 0)}, "new=2"},
		{"nothing runs and none is current: the youngest", 2, "0", nil, []*appsv1.ReplicaSet{rs("a", 0, 0), rs("b", 0, 0)}, "b=2"},
		{"saturated: the old ones stop", 3, "0", rs("new", 3, 3, "desired-replicas=3"), []*appsv1.ReplicaSet{rs("a", 1, 1)}, "a=0"},
		// The worked example of upstream's documentation: 10 → 15 with 8 old, 5 new, surge 3.
		{"grows by share", 15, "3", rs("new", 5, 5, "max-replicas=13"), []*appsv1.ReplicaSet{rs("a", 8, 8, "max-replicas=13")}, "a=11 new=7"},
		{"shrinks by share", 5, "3", rs("new", 5, 5, "max-replicas=13"), []*appsv1.ReplicaSet{rs("a", 8, 8, "max-replicas=13")}, "a=5 new=3"},
		{"to zero", 0, "3", rs("new", 5, 5, "max-replicas=13"), []*appsv1.ReplicaSet{rs("a", 8, 8, "max-replicas=13")}, "a=0 new=0"},
		{
			"what rounding leaves goes to the largest", 11, "0",
			rs("new", 3, 3, "max-replicas=10"),
			[]*appsv1.ReplicaSet{rs("a", 4, 4, "max-replicas=10"), rs("b", 3, 3, "max-replicas=10")},
			"a=5 b=3 new=3",
		},
		{"no size change only refreshes", 10, "3", rs("new", 5, 5, "max-replicas=13"), []*appsv1.ReplicaSet{rs("a", 8, 8, "max-replicas=13")}, "a=8 new=5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := show(proportional(deploy(c.want, c.surge, "2"), sets{c.current, c.old})); got != c.steps {
				t.Errorf("got %q, want %q", got, c.steps)
			}
		})
	}
}

func TestFenceposts(t *testing.T) {
	for _, c := range []struct {
		want               int32
		surge, unavailable string
		s, u               int32
	}{
		{10, "25%", "25%", 3, 2},
		{2, "0%", "1%", 0, 1},
		{1, "0", "1%", 0, 1},
		{2, "1%", "25%", 1, 0},
		{4, "1", "10", 1, 4},
		{0, "25%", "25%", 0, 0},
		{1, "25%", "25%", 1, 0},
		{3, "150%", "0", 5, 0},
	} {
		if s, u := fenceposts(deploy(c.want, c.surge, c.unavailable)); s != c.s || u != c.u {
			t.Errorf("%+v: got %d, %d", c, s, u)
		}
	}
}

func TestSortOut(t *testing.T) {
	d := deploy(1, "1", "0")
	a, n1, n2 := rs("a", 1, 1), rs("new", 1, 1), rs("n2", 1, 1)
	n1.Spec.Template.Labels[hashLabel] = "abc"
	n2.Spec.Template = template("new")
	s := sortOut(d, []*appsv1.ReplicaSet{n2, n1, a})
	if s.current != n1 || len(s.old) != 2 || s.old[0] != a || s.old[1] != n2 {
		t.Errorf("got current %v, old %v", s.current.Name, s.old)
	}
	if d.Spec.Template.Labels["app"] != "web" || n1.Spec.Template.Labels[hashLabel] != "abc" {
		t.Error("comparing changed the objects")
	}
}

func TestAnnotations(t *testing.T) {
	d := deploy(1, "1", "0")
	d.Annotations = map[string]string{"note": "x", revisionAnnotation: "9", corev1.LastAppliedConfigAnnotation: "{}"}
	for _, c := range []struct {
		name string
		have []string
		next int64
		want string
	}{
		{"first", nil, 1, "note=x revision=1"},
		{"nothing new", []string{"revision=3"}, 3, "note=x revision=3"},
		{"a newer one stays", []string{"revision=5"}, 3, "note=x revision=5"},
		{"in use again", []string{"revision=1"}, 3, "note=x revision-history=1 revision=3"},
		{"and again", []string{"revision=3", "revision-history=1"}, 5, "note=x revision-history=1,3 revision=5"},
		{"spoilt is left alone", []string{"revision=abc"}, 5, "revision=abc"},
	} {
		got, _ := annotations(d, rs("new", 1, 1, c.have...), c.next)
		var out []string
		for k, v := range got {
			out = append(out, strings.TrimPrefix(k, "deployment.kubernetes.io/")+"="+v)
		}
		slices.Sort(out)
		if s := strings.Join(out, " "); s != c.want {
			t.Errorf("%s: got %q, want %q", c.name, s, c.want)
		}
	}
	long := addHistory(strings.Repeat("123,", 499)+"123", "77")
	if len(long) > historyLimit || !strings.HasSuffix(long, ",123,77") || strings.HasPrefix(long, ",") {
		t.Errorf("history of %d characters: …%s", len(long), long[len(long)-10:])
	}
}

func TestNewSet(t *testing.T) {
	d := deploy(4, "1", "1")
	old := rs("a", 4, 4, "revision=2")
	n := newSet(d, []*appsv1.ReplicaSet{old})
	hash := n.Labels[hashLabel]
	switch {
	case hash == "" || n.Name != "web-"+hash:
		t.Errorf("name %s, hash %s", n.Name, hash)
	case n.Spec.Selector.MatchLabels[hashLabel] != hash || n.Spec.Template.Labels[hashLabel] != hash:
		t.Error("the hash must be in selector and template")
	case size(n) != 1:
		t.Errorf("size %d, want the surge of 1", size(n))
	case n.Annotations[revisionAnnotation] != "3" || n.Annotations[desiredAnnotation] != "4" || n.Annotations[maxAnnotation] != "5":
		t.Errorf("annotations %v", n.Annotations)
	case !sameTemplate(&n.Spec.Template, &d.Spec.Template):
		t.Error("its template is not the Deployment's")
	}
	one := int32(1)
	d.Status.CollisionCount = &one
	if newSet(d, nil).Name == n.Name {
		t.Error("a collision must change the name")
	}
	d.Name = strings.Repeat("x", 253)
	if l := len(newSet(d, nil).Name); l != 253 {
		t.Errorf("name of %d characters", l)
	}
}

func TestExpired(t *testing.T) {
	d := deploy(1, "1", "0")
	old := []*appsv1.ReplicaSet{rs("a", 0, 0, "revision=1"), rs("b", 0, 0, "revision=4"), rs("c", 0, 0, "revision=2"), rs("d", 1, 1, "revision=0")}
	for limit, want := range map[int32]string{0: "a c b", 2: "a", 3: "", 10: ""} {
		d.Spec.RevisionHistoryLimit = &limit
		var names []string
		for _, r := range expired(d, old) {
			names = append(names, r.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("limit %d: got %q, want %q", limit, got, want)
		}
	}
	d.Spec.RevisionHistoryLimit = nil
	if expired(d, old) != nil {
		t.Error("no limit, nothing expires")
	}
}

func TestProgress(t *testing.T) {
	now := epoch.Add(time.Hour)
	cond := func(reason string, ago time.Duration) []appsv1.DeploymentCondition {
		return []appsv1.DeploymentCondition{{
			Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reason,
			LastUpdateTime: metav1.NewTime(now.Add(-ago)), LastTransitionTime: metav1.NewTime(epoch),
		}}
	}
	for _, c := range []struct {
		name   string
		was    appsv1.DeploymentStatus
		s      sets
		reason string
	}{
		{"complete", appsv1.DeploymentStatus{Conditions: cond(reasonUpdated, time.Minute)}, sets{rs("new", 2, 2), nil}, reasonComplete},
		{
			"more are ready",
			appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, Conditions: cond(reasonCreated, time.Minute)},
			sets{rs("new", 2, 1), nil},
			reasonUpdated,
		},
		{
			"nothing moved, in time",
			appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, Conditions: cond(reasonCreated, time.Minute)},
			sets{rs("new", 2, 0), nil},
			reasonCreated,
		},
		{
			"nothing moved, too late",
			appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, Conditions: cond(reasonCreated, 11*time.Minute)},
			sets{rs("new", 2, 0), nil},
			reasonTimedOut,
		},
		{
			"losing a pod after completion is no timeout",
			appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2, Conditions: cond(reasonComplete, time.Hour)},
			sets{rs("new", 2, 1), nil},
			reasonComplete,
		},
		{
			"late but moving again",
			appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, Conditions: cond(reasonTimedOut, time.Hour)},
			sets{rs("new", 2, 1), nil},
			reasonUpdated,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := deploy(2, "1", "0")
			d.Status = c.was
			st := withProgress(d, c.s, counted(d, c.s, now), now)
			if got := condition(&st, appsv1.DeploymentProgressing); got == nil || got.Reason != c.reason {
				t.Errorf("got %+v, want %s", got, c.reason)
			}
		})
	}
	d := deploy(2, "1", "0")
	d.Status.Conditions = cond(reasonUpdated, 9*time.Minute)
	if wait, ok := untilDeadline(d, &d.Status, now); !ok || wait != time.Minute+time.Second {
		t.Errorf("deadline in %v, %v", wait, ok)
	}
	d.Spec.ProgressDeadlineSeconds = nil
	st := withProgress(d, sets{rs("new", 2, 0), nil}, counted(d, sets{rs("new", 2, 0), nil}, now), now)
	if condition(&st, appsv1.DeploymentProgressing) != nil {
		t.Error("without a deadline there is no Progressing condition")
	}
}

func TestFailureIsReported(t *testing.T) {
	bad := rs("new", 2, 0)
	bad.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "quota"}}
	d := deploy(2, "1", "0")
	s := sets{bad, nil}
	st := withProgress(d, s, counted(d, s, epoch), epoch)
	c := condition(&st, appsv1.DeploymentReplicaFailure)
	if c == nil || c.Reason != "FailedCreate" || c.Message != "quota" {
		t.Fatalf("got %+v", c)
	}
	d.Status = st
	s.current.Status.Conditions = nil
	st = withProgress(d, s, counted(d, s, epoch), epoch)
	if condition(&st, appsv1.DeploymentReplicaFailure) != nil {
		t.Error("the failure must go when its cause has gone")
	}
}
