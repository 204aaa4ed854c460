package owned

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

var (
	now  = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	gvk  = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
	mine = labels.SelectorFromSet(labels.Set{"app": "web"})
)

func owner(deleting bool) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "me"}}
	if deleting {
		rs.DeletionTimestamp = &metav1.Time{Time: now}
	}
	return rs
}

func pod(name, app string, of types.UID) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name), Labels: map[string]string{"app": app}}}
	if of != "" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: of, Controller: &yes}}
	}
	return p
}

func TestJudge(t *testing.T) {
	dying := pod("p", "web", "")
	dying.DeletionTimestamp = &metav1.Time{Time: now}
	dyingMine := pod("p", "web", "me")
	dyingMine.DeletionTimestamp = &metav1.Time{Time: now}
	elsewhere := pod("p", "web", "")
	elsewhere.Namespace = "other"
	loose := pod("p", "web", "")
	loose.OwnerReferences = []metav1.OwnerReference{{Kind: "Node", UID: "n"}} // an owner that is no controller
	for _, c := range []struct {
		name     string
		deleting bool
		obj      metav1.Object
		want     Verdict
	}{
		{"mine and selected", false, pod("p", "web", "me"), Keep},
		{"mine and selected, I am going", true, pod("p", "web", "me"), Keep},
		{"mine, being deleted", false, dyingMine, Keep},
		{"mine, no longer selected", false, pod("p", "db", "me"), Release},
		{"mine, no longer selected, I am going", true, pod("p", "db", "me"), Ignore},
		{"another's, though selected", false, pod("p", "web", "you"), Ignore},
		{"an orphan that matches", false, pod("p", "web", ""), Adopt},
		{"an orphan that doesn't", false, pod("p", "db", ""), Ignore},
		{"an orphan that is going", false, dying, Ignore},
		{"an orphan, I am going", true, pod("p", "web", ""), Ignore},
		{"an orphan elsewhere", false, elsewhere, Ignore},
		{"an orphan with another sort of owner", false, loose, Adopt},
	} {
		if got := Judge(owner(c.deleting), mine, c.obj); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestClaim(t *testing.T) {
	gone := apierrors.NewNotFound(corev1.Resource("pods"), "x")
	for _, c := range []struct {
		name    string
		live    metav1.Object
		refuse  error // of every patch
		claimed string
		patched string
		failed  bool
	}{
		{"adopts and releases", owner(false), nil, "kept orphan", "orphan+ lost-", false},
		{"replaced meanwhile", &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{UID: "another"}}, nil, "kept", "lost-", true},
		{"deleted meanwhile", owner(true), nil, "kept", "lost-", true},
		{"gone meanwhile is no error", owner(false), gone, "kept", "orphan+ lost-", false},
		{"a refused patch is", owner(false), errors.New("no"), "kept", "orphan+ lost-", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var patched []string
			asked := 0
			cl := Claimer[*corev1.Pod]{
				Owner: owner(false), Kind: gvk, Selector: mine, Finalizers: []string{"x/y"},
				AdoptIf: func(p *corev1.Pod) bool { return p.Name != "picky" },
				Live:    func(context.Context) (metav1.Object, error) { asked++; return c.live, nil },
				Patch: func(_ context.Context, p *corev1.Pod, patch []byte) error {
					sign := "+"
					if strings.Contains(string(patch), `"$patch":"delete"`) {
						sign = "-"
						if !strings.Contains(string(patch), `"$deleteFromPrimitiveList/finalizers":["x/y"]`) {
							t.Errorf("patch %s", patch)
						}
					} else if !strings.Contains(string(patch), `"controller":true`) || !strings.Contains(string(patch), `"uid":"`+string(p.UID)+`"`) {
						t.Errorf("patch %s", patch)
					}
					patched = append(patched, p.Name+sign)
					return c.refuse
				},
			}
			got, err := cl.Claim(t.Context(), []*corev1.Pod{
				pod("kept", "web", "me"), pod("orphan", "web", ""), pod("picky", "web", ""), pod("lost", "db", "me"), pod("foreign", "web", "you"),
			})
			var names []string
			for _, p := range got {
				names = append(names, p.Name)
			}
			if strings.Join(names, " ") != c.claimed || strings.Join(patched, " ") != c.patched || (err != nil) != c.failed || asked != 1 {
				t.Errorf("claimed %v, patched %v, asked %d times, %v", names, patched, asked, err)
			}
		})
	}
}

// sick and well make pods for the deletion order: each case says which of two goes first.
func made(edit ...func(*corev1.Pod)) *corev1.Pod {
	p := pod("p", "web", "me")
	p.Spec.NodeName = "n"
	p.CreationTimestamp = metav1.NewTime(now.Add(-time.Hour))
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))},
	}}
	for _, e := range edit {
		e(p)
	}
	return p
}

func TestVictims(t *testing.T) {
	unready := func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
	since := func(d time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-d)) }
	}
	born := func(d time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-d)) }
	}
	cost := func(v string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: v} }
	}
	restarts := func(n int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
	}
	phase := func(ph corev1.PodPhase) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Status.Phase = ph } }
	node := func(n string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = n } }
	uid := func(u string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.UID = types.UID(u) } }
	crowd := []*corev1.Pod{made(node("full")), made(node("full")), made(node("n"))}
	for _, c := range []struct {
		name        string
		first, then *corev1.Pod
	}{
		{"without a node", made(node("")), made()},
		{"without a node, though cheap to keep", made(node(""), cost("100")), made(cost("-100"))},
		{"pending", made(phase(corev1.PodPending)), made()},
		{"pending before unknown", made(phase(corev1.PodPending)), made(phase(corev1.PodUnknown))},
		{"unknown before running", made(phase(corev1.PodUnknown)), made()},
		{"not ready", made(unready), made()},
		{"cheaper", made(cost("-1")), made()},
		{"cheaper of two", made(cost("3")), made(cost("7"))},
		{"a bad cost is none", made(cost("x")), made(cost("1"))},
		{"on a crowded node", made(node("full")), made(node("n"))},
		{"cost before crowd", made(cost("-1")), made(node("full"))},
		{"ready for a shorter time", made(since(time.Minute)), made(since(time.Hour))},
		{"restarted more", made(restarts(3)), made(restarts(1))},
		{"younger", made(born(time.Minute)), made(born(time.Hour))},
		{"of the same age, roughly: by UID", made(uid("a"), born(60*time.Minute)), made(uid("b"), born(59*time.Minute))},
	} {
		for _, order := range [][]*corev1.Pod{{c.first, c.then}, {c.then, c.first}} {
			if got := Victims(order, crowd, 1, now); len(got) != 1 || got[0] != c.first {
				t.Errorf("%s: the wrong one goes", c.name)
			}
		}
	}
	if n := len(Victims(crowd, nil, 9, now)); n != 3 {
		t.Errorf("%d of 3 when 9 are asked for", n)
	}
	if n := len(Victims(crowd, nil, 0, now)); n != 0 {
		t.Errorf("%d when none is asked for", n)
	}
}

func TestRestartsOfSidecarsBreakTies(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	sidecar := func(n int32) *corev1.Pod {
		return made(func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "s", RestartPolicy: &always}, {Name: "i"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "s", RestartCount: n}, {Name: "i", RestartCount: 99}}
		})
	}
	bad, good := sidecar(5), sidecar(1)
	if got := Victims([]*corev1.Pod{good, bad}, nil, 1, now); got[0] != bad {
		t.Error("the one whose sidecar restarted more goes first")
	}
}

func TestAvailable(t *testing.T) {
	for _, c := range []struct {
		name     string
		ready    bool
		since    time.Duration
		minReady int32
		ok       bool
		wait     time.Duration
	}{
		{"not ready", false, time.Hour, 0, false, 0},
		{"ready", true, 0, 0, true, 0},
		{"not for long enough", true, 3 * time.Second, 10, false, 7 * time.Second},
		{"long enough", true, 10 * time.Second, 10, true, 0},
	} {
		p := made(func(p *corev1.Pod) {
			if !c.ready {
				p.Status.Conditions[0].Status = corev1.ConditionFalse
			}
			p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-c.since))
		})
		if ok, wait := Available(p, c.minReady, now); ok != c.ok || wait != c.wait {
			t.Errorf("%s: %v, %v", c.name, ok, wait)
		}
	}
}

func TestPending(t *testing.T) {
	p := NewPending()
	key := types.NamespacedName{Namespace: "ns", Name: "a"}
	nothing := func(types.NamespacedName) Sight { return Sight{} }
	there := func(types.NamespacedName) Sight { return Sight{UID: "a"} }
	going := func(types.NamespacedName) Sight { return Sight{UID: "a", Deleting: true} }
	other := func(types.NamespacedName) Sight { return Sight{UID: "b"} }
	settled := func(look func(types.NamespacedName) Sight) bool {
		ok, wait := p.Settled("o", look)
		if !ok && (wait <= 0 || wait > pendingTimeout) {
			t.Errorf("wait %v", wait)
		}
		return ok
	}
	if !settled(nothing) {
		t.Error("nothing was written")
	}
	p.Created("o", "a", key)
	if settled(nothing) || settled(other) || !settled(there) || !settled(nothing) {
		t.Error("a creation is settled once the pod was seen")
	}
	p.Deleted("o", "a", key)
	if settled(there) || !settled(going) {
		t.Error("a deletion is settled once the pod is seen going")
	}
	p.Deleted("o", "a", key)
	if settled(there) || !settled(other) {
		t.Error("or another has its name")
	}
	p.Created("o", "a", key)
	p.Gone("a") // came and went before anybody looked
	if !settled(nothing) {
		t.Error("a pod whose end was seen is settled")
	}
	p.Created("o", "a", key)
	p.Created("o2", "c", key)
	p.Forget("o")
	if !settled(nothing) {
		t.Error("a forgotten owner has nothing pending")
	}
	if ok, _ := p.Settled("o2", nothing); ok {
		t.Error("owners don't mix")
	}
	p.owners["o2"]["c"] = pendingWrite{key: key, created: true, since: time.Now().Add(-pendingTimeout)}
	if ok, _ := p.Settled("o2", nothing); !ok {
		t.Error("it must not wait for ever")
	}
}

func TestVersions(t *testing.T) {
	v := NewVersions()
	if !v.Fresh("u", "5") {
		t.Error("nothing was written")
	}
	v.Wrote("u", "10")
	if v.Fresh("u", "9") || !v.Fresh("u", "10") || !v.Fresh("u", "9") {
		t.Error("fresh from the written version on, once")
	}
	v.Wrote("u", "10")
	if !v.Fresh("u", "11") {
		t.Error("a newer one is fresh")
	}
	v.Wrote("u", "99")
	if v.Fresh("u", "100") != true {
		t.Error("versions are numbers, not text")
	}
	v.Wrote("u", "10")
	v.Forget("u")
	if !v.Fresh("u", "1") {
		t.Error("forgotten")
	}
}

func TestSlowStart(t *testing.T) {
	for _, c := range []struct{ n, failAt, done, calls int }{
		{0, -1, 0, 0},
		{1, -1, 1, 1},
		{10, -1, 10, 10},
		{100, -1, 100, 100},
		{10, 0, 0, 1},
		{10, 1, 2, 3},
		{10, 3, 6, 7},
		{10, 9, 9, 10},
	} {
		var calls atomic.Int32
		done, err := SlowStart(t.Context(), c.n, func(_ context.Context, i int) error {
			calls.Add(1)
			if i == c.failAt {
				return fmt.Errorf("call %d", i)
			}
			return nil
		})
		if done != c.done || int(calls.Load()) != c.calls || (err != nil) != (c.failAt >= 0) {
			t.Errorf("%+v: %d done in %d calls, %v", c, done, calls.Load(), err)
		}
	}
}

func TestParallelIsBounded(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	seen := make([]bool, 200)
	done, err := Parallel(t.Context(), len(seen), func(_ context.Context, i int) error {
		mu.Lock()
		running++
		most = max(most, running)
		seen[i] = true
		mu.Unlock()
		time.Sleep(time.Millisecond)
		mu.Lock()
		running--
		mu.Unlock()
		return nil
	})
	if done != 200 || err != nil || most > parallelism || slices.Contains(seen, false) {
		t.Errorf("%d done, %v, at most %d at a time", done, err, most)
	}
}

func TestFromTemplate(t *testing.T) {
	tmpl := &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}, Finalizers: []string{"e/f"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}},
	}
	p := FromTemplate(tmpl, owner(false), gvk)
	p.Labels["a"], p.Annotations["c"], p.Finalizers[0], p.Spec.Containers[0].Name = "x", "x", "x", "x"
	if tmpl.Labels["a"] != "b" || tmpl.Annotations["c"] != "d" || tmpl.Finalizers[0] != "e/f" || tmpl.Spec.Containers[0].Name != "c" {
		t.Error("the pod shares memory with its template")
	}
	if p.GenerateName != "web-" || !metav1.IsControlledBy(p, owner(false)) || p.OwnerReferences[0].BlockOwnerDeletion == nil {
		t.Errorf("%+v", p.ObjectMeta)
	}
	long := owner(false)
	long.Name = strings.Repeat("x", 253)
	if n := FromTemplate(tmpl, long, gvk).GenerateName; n != long.Name {
		t.Errorf("a name at the limit takes no dash: …%s", n[250:])
	}
}

func TestIndex(t *testing.T) {
	ix := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byController: indexKeys})
	for _, p := range []*corev1.Pod{pod("a", "web", "me"), pod("b", "db", "me"), pod("c", "web", "you"), pod("d", "web", "")} {
		if err := ix.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	if a, b, c := len(Of[*corev1.Pod](ix, "me")), len(Orphans[*corev1.Pod](ix, "ns")), len(Orphans[*corev1.Pod](ix, "other")); a != 2 || b != 1 || c != 0 {
		t.Errorf("%d mine, %d orphans, %d elsewhere", a, b, c)
	}
}

func TestHandlers(t *testing.T) {
	var got []string
	h := Handlers{
		Kind:   "ReplicaSet",
		Owner:  func(n types.NamespacedName) { got = append(got, n.Name) },
		Orphan: func(o metav1.Object) { got = append(got, "orphan:"+o.GetName()) },
	}
	relabelled := pod("p", "db", "")
	moved := pod("p", "web", "you")
	moved.OwnerReferences[0].Name = "web2"
	for _, c := range []struct {
		name     string
		old, cur metav1.Object
		want     string
	}{
		{"new", nil, pod("p", "web", "me"), "web"},
		{"new orphan", nil, pod("p", "web", ""), "orphan:p"},
		{"changed", pod("p", "web", "me"), pod("p", "web", "me"), "web"},
		{"an orphan that is only told again", pod("p", "web", ""), pod("p", "web", ""), ""},
		{"an orphan relabelled", pod("p", "web", ""), relabelled, "orphan:p"},
		{"released", pod("p", "web", "me"), pod("p", "web", ""), "web orphan:p"},
		{"another owner", pod("p", "web", "me"), moved, "web web2"},
	} {
		got = nil
		h.changed(c.old, c.cur)
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: woke %q, want %q", c.name, s, c.want)
		}
	}
}
