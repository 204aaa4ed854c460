package daemonset

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/mote-edge/mote/controlplane/controllers/workloadtest"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func set(surge, unavailable string) *appsv1.DaemonSet {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	l := map[string]string{"app": "agent"}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: "default", UID: "ds"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "one"}}},
			},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type:          appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: &s, MaxUnavailable: &u},
			},
		},
	}
}

// world reads "a: old- ; b: new+ old+" and so on: nodes with the pods on them, + available, - not, ! failed,
// ~ being deleted, . succeeded. A node in parentheses tolerates no new pod, one in brackets none at all,
// one in <> doesn't exist.
func world(ds *appsv1.DaemonSet, text string) view {
	v := view{ds: ds, hash: "new", nodes: map[string]place{}, pods: map[string][]*corev1.Pod{}, now: epoch}
	n := 0
	for _, part := range strings.Split(text, ";") {
		name, pods, _ := strings.Cut(strings.TrimSpace(part), ":")
		at := place{true, true}
		switch name[0] {
		case '(':
			at.run = false
		case '[':
			at = place{}
		}
		bare := strings.Trim(name, "()[]<>")
		if name[0] != '<' {
			v.nodes[bare] = at
		}
		for _, p := range strings.Fields(pods) {
			n++
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
				Name: bare + "/" + p, Labels: map[string]string{hashLabel: p[:3]},
				CreationTimestamp: metav1.NewTime(epoch.Add(time.Duration(n) * time.Second)),
			}}
			pod.Spec.NodeName = bare
			pod.Status = workloadtest.ReadyStatus(p[3] == '+', epoch.Add(-time.Hour))
			switch p[3] {
			case '!':
				pod.Status.Phase = corev1.PodFailed
			case '.':
				pod.Status.Phase = corev1.PodSucceeded
			case '~':
				pod.DeletionTimestamp = &metav1.Time{Time: epoch}
			case '?':
				pod.Spec.NodeName = ""
			}
			v.pods[bare] = append(v.pods[bare], pod)
		}
	}
	return v
}

func show(p plan) string {
	var out []string
	for _, n := range p.create {
		out = append(out, "+"+n)
	}
	for _, pod := range p.remove {
		out = append(out, "-"+pod.Name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func never(string) time.Duration { return 0 }

func TestManage(t *testing.T) {
	for _, c := range []struct{ name, surge, world, want string }{
		{"one on each node", "0", "a:; b: new+; c:", "+a +c"},
		{"nothing to do", "0", "a: new+; b: old-", ""},
		{"where none may start", "0", "(a):; [b]:", ""},
		{"where one may stay", "0", "(a): new+", ""},
		{"where none may stay", "0", "[a]: new+", "-a/new+"},
		{"a failed one is replaced", "0", "a: new!", "-a/new!"},
		{"a finished one is replaced", "0", "a: new.", "-a/new."},
		{"one on its way out is waited for", "0", "a: new~", ""},
		{"too many: the oldest stays", "0", "a: old+ new+", "-a/new+"},
		{"surge: old and new together", "1", "a: old+ new-", ""},
		{"surge: the new one is available", "1", "a: old+ new+", "-a/old+"},
		{"surge: the old one isn't ready", "1", "a: old- new-", "-a/old-"},
		{"surge: three", "1", "a: old+ new- new-2", "-a/new-2"},
		{"surge: replaces at once what is being deleted", "1", "a: new~", "+a"},
		{"a pod for a node that is gone", "0", "<x>: new?; a: new+", "-x/new?"},
		{"a pod bound to a node that is gone is not ours to delete", "0", "<x>: new+", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := show(manage(world(set(c.surge, "1"), c.world), never)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	p := manage(world(set("0", "1"), "a: new!"), func(string) time.Duration { return 7 * time.Second })
	if !p.empty() || p.wait != 7*time.Second {
		t.Errorf("a failed pod must wait: %q, %v", show(p), p.wait)
	}
}

func TestRoll(t *testing.T) {
	for _, c := range []struct{ name, surge, unavailable, world, want string }{
		{"one at a time", "0", "1", "a: old+; b: old+; c: old+", "-a/old+"},
		{"waits for it", "0", "1", "a: new-; b: old+; c: old+", ""},
		{"goes on", "0", "1", "a: new+; b: old+; c: old+", "-b/old+"},
		{"two at a time", "0", "2", "a: old+; b: old+; c: old+", "-a/old+ -b/old+"},
		{"half, rounded up", "0", "50%", "a: old+; b: old+; c: old+", "-a/old+ -b/old+"},
		{"what is down already costs nothing", "0", "1", "a: old-; b: old+; c: old+", "-a/old-"},
		{"a node without a pod counts as down", "0", "1", "a:; b: old+", ""},
		{"done", "0", "1", "a: new+; b: new+", ""},
		{"neither surge nor unavailability means one", "0", "0", "a: old+; b: old+", "-a/old+"},
		{"surge", "1", "0", "a: old+; b: old+", "+a"},
		{"surge waits", "1", "0", "a: old+ new-; b: old+", ""},
		{"surge replaces", "1", "0", "a: old+ new+; b: old+", "+b -a/old+"},
		{"surge replaces what is down at once", "1", "0", "a: old-; b: old+", "+a +b"},
		{"surge leaves a node when others do the work", "1", "0", "(a): old+; b: new+", "-a/old+"},
		{"surge stays as long as they don't", "1", "0", "(a): old+; b: new-", ""},
		{"surge leaves a node where it is down", "1", "0", "(a): old-; b: new-", "-a/old-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := show(roll(world(set(c.surge, c.unavailable), c.world))); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	ds := set("0", "1")
	st, _ := status(world(ds, "a: new+; b: old-; c:; (d): new+; [e]:"))
	want := appsv1.DaemonSetStatus{
		DesiredNumberScheduled: 3, CurrentNumberScheduled: 2, NumberMisscheduled: 1,
		NumberReady: 1, NumberAvailable: 1, NumberUnavailable: 2, UpdatedNumberScheduled: 1,
	}
	if fmt.Sprint(st) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", st, want)
	}
	ds.Spec.MinReadySeconds = 3600 + 5
	st, recheck := status(world(ds, "a: new+"))
	if st.NumberReady != 1 || st.NumberAvailable != 0 || recheck != 5*time.Second {
		t.Errorf("ready %d, available %d, again in %v", st.NumberReady, st.NumberAvailable, recheck)
	}
}

func TestPlacer(t *testing.T) {
	node := func(labels map[string]string, taints ...corev1.Taint) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
	}
	for _, c := range []struct {
		name      string
		spec      corev1.PodSpec
		node      *corev1.Node
		run, stay bool
	}{
		{"any", corev1.PodSpec{}, node(nil), true, true},
		{"another name", corev1.PodSpec{NodeName: "m"}, node(nil), false, false},
		{"selector", corev1.PodSpec{NodeSelector: map[string]string{"a": "b"}}, node(nil), false, false},
		{"selector met", corev1.PodSpec{NodeSelector: map[string]string{"a": "b"}}, node(map[string]string{"a": "b"}), true, true},
		{"a taint", corev1.PodSpec{}, node(nil, corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoSchedule}), false, true},
		{"a strong taint", corev1.PodSpec{}, node(nil, corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoExecute}), false, false},
		{"a weak taint", corev1.PodSpec{}, node(nil, corev1.Taint{Key: "k", Effect: corev1.TaintEffectPreferNoSchedule}), true, true},
		{"tolerated", corev1.PodSpec{Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}}, node(nil, corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoExecute}), true, true},
		{"a node in trouble", corev1.PodSpec{}, node(nil, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}), true, true},
		{"no network", corev1.PodSpec{}, node(nil, corev1.Taint{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule}), false, true},
		{"no network needed", corev1.PodSpec{HostNetwork: true}, node(nil, corev1.Taint{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule}), true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ds := set("0", "1")
			ds.Spec.Template.Spec = c.spec
			if run, stay := newPlacer(ds).on(c.node); run != c.run || stay != c.stay {
				t.Errorf("run %v, stay %v", run, stay)
			}
		})
	}
}

func TestNewPod(t *testing.T) {
	ds := set("0", "1")
	ds.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}},
	}}
	p := newPod(ds, "n1", "h")
	if nodeOf(p) != "n1" || p.Spec.NodeName != "" || p.Labels[hashLabel] != "h" || len(p.Spec.Tolerations) != 6 {
		t.Errorf("node %q, labels %v, %d tolerations", nodeOf(p), p.Labels, len(p.Spec.Tolerations))
	}
	if ds.Spec.Template.Labels[hashLabel] != "" {
		t.Error("the template was changed")
	}
}

func TestController(t *testing.T) {
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	c := workloadtest.New(t, set("0", "1"), node("n1"), node("n2"))
	ctl, err := New(c.Client, c.Informers, c.Recorder)
	if err != nil {
		t.Fatal(err)
	}
	c.Start(ctl.Run)
	c.Start(func(ctx context.Context) error { // scheduler and kubelet
		for ctx.Err() == nil {
			for _, p := range c.Pods() {
				if p.Spec.NodeName == "" {
					p.Spec.NodeName = nodeOf(&p)
					_, _ = c.Client.CoreV1().Pods("default").Update(ctx, &p, metav1.UpdateOptions{})
				} else if p.Status.Phase == "" {
					p.Status = workloadtest.ReadyStatus(true, time.Now())
					_, _ = c.Client.CoreV1().Pods("default").UpdateStatus(ctx, &p, metav1.UpdateOptions{})
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	})
	get := func() *appsv1.DaemonSet {
		ds, err := c.Client.AppsV1().DaemonSets("default").Get(context.Background(), "agent", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return ds
	}
	c.Eventually("two pods are ready", func() bool { s := get().Status; return s.NumberReady == 2 && s.UpdatedNumberScheduled == 2 })
	if _, err := c.Client.CoreV1().Nodes().Create(context.Background(), node("n3"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("a new node gets one", func() bool { return get().Status.NumberReady == 3 })

	image := func(name string) {
		for {
			ds := get()
			ds.Spec.Template.Spec.Containers[0].Image = name
			_, err := c.Client.AppsV1().DaemonSets("default").Update(context.Background(), ds, metav1.UpdateOptions{})
			if err == nil {
				return
			}
			if !apierrors.IsConflict(err) {
				t.Fatal(err)
			}
		}
	}
	rolled := func(name string) func() bool {
		return func() bool {
			s := get().Status
			for _, p := range c.Pods() {
				if p.Spec.Containers[0].Image != name {
					return false
				}
			}
			return s.UpdatedNumberScheduled == 3 && s.NumberAvailable == 3 && s.ObservedGeneration == get().Generation
		}
	}
	image("two")
	c.Eventually("the update is rolled out", rolled("two"))
	image("one")
	c.Eventually("it is undone", rolled("one"))
	l, err := c.Client.AppsV1().ControllerRevisions("default").List(context.Background(), metav1.ListOptions{})
	if err != nil || len(l.Items) != 2 {
		t.Fatalf("%d revisions, %v", len(l.Items), err)
	}
	for _, r := range l.Items {
		if strings.Contains(string(r.Data.Raw), `"one"`) && r.Revision != 3 {
			t.Errorf("the revision in use again has number %d, want 3", r.Revision)
		}
	}
}
