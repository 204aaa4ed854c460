package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

func newJob(edit ...func(*batchv1.Job)) *batchv1.Job {
	l := map[string]string{"app": "work"}
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "work", Namespace: "default", UID: "job"},
		Spec: batchv1.JobSpec{
			Parallelism: ptr(int32(2)), Completions: ptr(int32(4)), BackoffLimit: ptr(int32(6)),
			Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c"}}},
			},
		},
		Status: batchv1.JobStatus{
			UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{},
			StartTime:               &metav1.Time{Time: epoch.Add(-time.Hour)},
		},
	}
	for _, e := range edit {
		e(j)
	}
	return j
}

func isIndexed(j *batchv1.Job) { j.Spec.CompletionMode = ptr(batchv1.IndexedCompletion) }

// pods reads "run ok fail" and so on: run+ is ready, ~ after a word: being deleted, -: without finalizer,
// a number after a slash: the index, a second one: its failure count. They ended long ago.
func pods(text string) (out []*corev1.Pod) {
	for n, word := range strings.Fields(text) {
		parts := strings.Split(word, "/")
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("p%d", n), Namespace: "default", UID: types.UID(fmt.Sprintf("p%d", n)),
			Annotations: map[string]string{}, Finalizers: []string{batchv1.JobTrackingFinalizer},
			CreationTimestamp: metav1.NewTime(epoch.Add(-30 * time.Minute)),
		}}
		p.Spec.NodeName = "n"
		if len(parts) > 1 {
			p.Annotations[batchv1.JobCompletionIndexAnnotation] = parts[1]
		}
		if len(parts) > 2 {
			p.Annotations[batchv1.JobIndexFailureCountAnnotation] = parts[2]
		}
		kind := parts[0]
		p.Status.Phase = map[string]corev1.PodPhase{
			"run": corev1.PodRunning, "ok": corev1.PodSucceeded, "fail": corev1.PodFailed, "wait": corev1.PodPending,
		}[strings.Trim(kind, "+~-")]
		if strings.Contains(kind, "+") {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		if strings.Contains(kind, "~") {
			p.DeletionTimestamp = &metav1.Time{Time: epoch.Add(-20 * time.Minute)}
		}
		if strings.Contains(kind, "-") {
			p.Finalizers = nil
		}
		out = append(out, p)
	}
	return out
}

func see(j *batchv1.Job, text string) view {
	return view{job: j, pods: pods(text), freed: sets.New[types.UID](), settled: true, now: epoch}
}

func show(p plan) string {
	var out []string
	switch {
	case len(p.indexes) > 0:
		for _, i := range p.indexes {
			out = append(out, "+"+strconv.Itoa(i))
		}
	case p.create > 0:
		out = append(out, fmt.Sprintf("+%d pods", p.create))
	}
	var remove []string
	for _, pod := range p.remove {
		remove = append(remove, "-"+pod.Name)
	}
	slices.Sort(remove)
	out = append(out, remove...)
	if p.wait > 0 {
		out = append(out, "wait "+p.wait.String())
	}
	return strings.Join(out, " ")
}

func TestManage(t *testing.T) {
	for _, c := range []struct {
		name string
		job  *batchv1.Job
		pods string
		want string
	}{
		{"start", newJob(), "", "+2 pods"},
		{"enough run", newJob(), "run wait", ""},
		{"go on after a success", newJob(), "ok run", "+1 pods"},
		{"not more than are missing", newJob(), "ok ok ok", "+1 pods"},
		{"too many", newJob(func(j *batchv1.Job) { j.Spec.Parallelism = ptr(int32(1)) }), "run+ wait", "-p1"},
		{"a work queue starts all", newJob(func(j *batchv1.Job) { j.Spec.Completions = nil }), "run", "+1 pods"},
		{"and none after a success", newJob(func(j *batchv1.Job) { j.Spec.Completions = nil }), "ok", ""},
		{"suspended", newJob(func(j *batchv1.Job) { j.Spec.Suspend = ptr(true) }), "run wait", "-p0 -p1"},
		{"a terminating pod is replaced", newJob(), "run run~", "+1 pods"},
		{"unless only failed ones are", newJob(func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = ptr(batchv1.Failed) }), "run run~", ""},
		{"failed long ago", newJob(), "fail run", "+1 pods"},

		{"indexed start", newJob(isIndexed), "", "+0 +1"},
		{"the gaps", newJob(isIndexed), "ok/0 run/2", "+1"},
		{"recorded indexes", newJob(isIndexed, func(j *batchv1.Job) { j.Status.CompletedIndexes = "0-1" }), "", "+2 +3"},
		{"a double", newJob(isIndexed), "run+/0 run/0", "-p1"},
		{"beyond the end", newJob(isIndexed), "run/0 run/7", "-p1"},
		{"without an index", newJob(isIndexed), "run/0 run", "-p1"},
		{"per index: again", newJob(isIndexed, func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = ptr(int32(1)) }), "fail/0/0 run/1", "+0"},
		{"per index: no more", newJob(isIndexed, func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = ptr(int32(1)) }), "fail/0/1 run/1", "+2"},
		{"only failed ones: index is taken", newJob(isIndexed, func(j *batchv1.Job) {
			j.Spec.PodReplacementPolicy = ptr(batchv1.Failed)
			j.Spec.Parallelism = ptr(int32(4))
		}), "run~/0 run/1", "+2 +3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := see(c.job, c.pods)
			if got := show(manage(v, evaluate(v))); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	v := see(newJob(), "fail run")
	v.pods[0].Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(epoch.Add(-3 * time.Second))},
	}}}
	if got := show(manage(v, evaluate(v))); got != "wait 7s" {
		t.Errorf("just failed: got %q", got)
	}
}

func TestVerdict(t *testing.T) {
	exit := func(code int32) func(view) {
		return func(v view) {
			v.pods[0].Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(epoch.Add(-time.Hour))},
			}}}
		}
	}
	policy := func(action batchv1.PodFailurePolicyAction) func(*batchv1.Job) {
		return func(j *batchv1.Job) {
			j.Spec.BackoffLimit = ptr(int32(0))
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action:      action,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}},
			}}}
		}
	}
	limit := func(n int32) func(*batchv1.Job) { return func(j *batchv1.Job) { j.Spec.BackoffLimit = &n } }
	perIdx := func(n int32) func(*batchv1.Job) {
		return func(j *batchv1.Job) { isIndexed(j); j.Spec.BackoffLimitPerIndex = &n; j.Spec.BackoffLimit = nil }
	}
	for _, c := range []struct {
		name string
		job  *batchv1.Job
		pods string
		edit func(view)
		want string
	}{
		{"goes on", newJob(), "run ok fail", nil, ""},
		{"back-off limit", newJob(limit(1)), "fail fail", nil, "FailureTarget BackoffLimitExceeded"},
		{"at the limit", newJob(limit(2)), "fail fail", nil, ""},
		{"a deleted pod counts", newJob(limit(0)), "run~", nil, "FailureTarget BackoffLimitExceeded"},
		{"unless only failed ones are replaced", newJob(limit(0), func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = ptr(batchv1.Failed) }), "run~", nil, ""},
		{
			"restarts in place", newJob(limit(2), func(j *batchv1.Job) { j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure }), "run",
			func(v view) { v.pods[0].Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 2}} }, "FailureTarget BackoffLimitExceeded",
		},
		{"deadline", newJob(func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = ptr(int64(3600)) }), "run", nil, "FailureTarget DeadlineExceeded"},
		{"in time", newJob(func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = ptr(int64(3601)) }), "run", nil, ""},
		{"no deadline while suspended", newJob(func(j *batchv1.Job) {
			j.Spec.ActiveDeadlineSeconds, j.Spec.Suspend = ptr(int64(1)), ptr(true)
		}), "", nil, ""},
		{"policy fails the job", newJob(policy(batchv1.PodFailurePolicyActionFailJob)), "fail", exit(42), "FailureTarget PodFailurePolicy"},
		{"policy ignores", newJob(policy(batchv1.PodFailurePolicyActionIgnore)), "fail", exit(42), ""},
		{"policy counts", newJob(policy(batchv1.PodFailurePolicyActionCount)), "fail", exit(42), "FailureTarget BackoffLimitExceeded"},
		{"policy doesn't match", newJob(policy(batchv1.PodFailurePolicyActionIgnore)), "fail", exit(1), "FailureTarget BackoffLimitExceeded"},
		{"policy on a condition", newJob(limit(0), func(j *batchv1.Job) {
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action:          batchv1.PodFailurePolicyActionIgnore,
				OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
			}}}
		}), "fail", func(v view) {
			v.pods[0].Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
		}, ""},
		{"all indexes ended, some failed", newJob(perIdx(0)), "ok/0 ok/1 ok/2 fail/3/0", nil, "FailureTarget FailedIndexes"},
		{"some are still to come", newJob(perIdx(0)), "ok/0 ok/1 fail/3/0", nil, ""},
		{"too many indexes failed", newJob(perIdx(0), func(j *batchv1.Job) { j.Spec.MaxFailedIndexes = ptr(int32(1)) }), "fail/2/0 fail/3/0", nil, "FailureTarget MaxFailedIndexesExceeded"},
		{"success policy: count", newJob(isIndexed, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: ptr(int32(2))}}}
		}), "ok/3 ok/1 run/0", nil, "SuccessCriteriaMet SuccessPolicy"},
		{"success policy: the leader", newJob(isIndexed, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr("0")}}}
		}), "ok/0 run/1", nil, "SuccessCriteriaMet SuccessPolicy"},
		{"success policy: not the leader", newJob(isIndexed, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr("0")}}}
		}), "ok/2 run/0", nil, ""},
		{"success policy: some of them", newJob(isIndexed, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr("0-2"), SucceededCount: ptr(int32(1))}}}
		}), "ok/2 run/0", nil, "SuccessCriteriaMet SuccessPolicy"},
		{"an earlier verdict stands", newJob(func(j *batchv1.Job) {
			j.Status.Conditions = []batchv1.JobCondition{*newCondition(batchv1.JobFailureTarget, "Why", "", epoch)}
		}), "ok ok ok ok", nil, "Failed Why"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := see(c.job, c.pods)
			if c.edit != nil {
				c.edit(v)
			}
			got := ""
			if o := evaluate(v); o.verdict != nil {
				got = string(o.verdict.Type) + " " + o.verdict.Reason
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestIndexes(t *testing.T) {
	for _, c := range []struct {
		in   string
		n    int
		out  string
		size int
	}{
		{"", 10, "", 0},
		{"1", 10, "1", 1},
		{"1,2", 10, "1,2", 2},
		{"1-3", 10, "1-3", 3},
		{"0,1-3,7", 10, "0-3,7", 5},
		{"1-9", 5, "1-4", 4},
		{"7", 5, "", 0},
		{"x,2,3-y", 5, "2", 1},
		{"3,1", 5, "1,3", 2},
	} {
		x := parseIndexes(c.in, c.n)
		if x.String() != c.out || x.len() != c.size {
			t.Errorf("%q: got %q of %d", c.in, x, x.len())
		}
	}
	x := indexes(nil).with(5, 1, 2, 9, 2)
	if x.String() != "1,2,5,9" || !x.has(5) || x.has(3) || x.has(0) || x.has(10) || !x.has(9) {
		t.Errorf("got %q", x)
	}
	if m := x.missing(3, 12); fmt.Sprint(m) != "[0 3 4]" {
		t.Errorf("missing %v", m)
	}
	if m := x.missing(10, 4); fmt.Sprint(m) != "[0 3]" {
		t.Errorf("missing %v", m)
	}
	if n := x.common(parseIndexes("2-5,8-20", 30)); n != 3 {
		t.Errorf("%d in common, want 3 (2, 5, 9)", n)
	}
}

func TestBackoff(t *testing.T) {
	at := func(seconds int, kind string) *corev1.Pod {
		p := pods(kind)[0]
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(epoch.Add(time.Duration(seconds) * time.Second))},
		}}}
		return p
	}
	for _, c := range []struct {
		name      string
		past      failures
		ok, fails []*corev1.Pod
		count     int
		wait      time.Duration
	}{
		{"none", failures{}, nil, nil, 0, 0},
		{"one", failures{}, nil, []*corev1.Pod{at(0, "fail")}, 1, 10 * time.Second},
		{"three", failures{count: 1}, nil, []*corev1.Pod{at(-5, "fail"), at(-2, "fail")}, 3, 38 * time.Second},
		{"very many", failures{count: 50}, nil, []*corev1.Pod{at(0, "fail")}, 51, 10 * time.Minute},
		{"a success forgives", failures{count: 5}, []*corev1.Pod{at(0, "ok")}, nil, 0, 0},
		{"what failed before a success doesn't count", failures{count: 5}, []*corev1.Pod{at(-4, "ok")}, []*corev1.Pod{at(-9, "fail"), at(-1, "fail")}, 1, 9 * time.Second},
	} {
		f := c.past.add(c.ok, c.fails)
		if f.count != c.count || f.wait(epoch) != c.wait {
			t.Errorf("%s: %d failures, wait %v", c.name, f.count, f.wait(epoch))
		}
	}
}

func uids(l []types.UID) string {
	var s []string
	for _, u := range l {
		s = append(s, string(u))
	}
	return strings.Join(s, " ")
}

func TestAccount(t *testing.T) {
	for _, c := range []struct {
		name            string
		job             *batchv1.Job
		pods            string
		free            string
		okRec, failRec  string
		succeeded, lost int32
		completed       string
	}{
		{"nothing ended", newJob(), "run wait", "", "", "", 0, 0, ""},
		{"put on record", newJob(), "ok fail run", "p0 p1", "p0", "p1", 0, 0, ""},
		{"on record before", newJob(func(j *batchv1.Job) { j.Status.UncountedTerminatedPods.Succeeded = []types.UID{"p0"} }), "ok", "p0", "p0", "", 0, 0, ""},
		{"struck off when freed", newJob(func(j *batchv1.Job) {
			j.Status.UncountedTerminatedPods.Succeeded = []types.UID{"p0", "gone"}
			j.Status.UncountedTerminatedPods.Failed = []types.UID{"gone2"}
			j.Status.Succeeded = 3
		}), "ok-", "", "", "", 5, 1, ""},
		{"indexes are recorded as such", newJob(isIndexed), "ok/2 ok/0 fail/1 ok/9", "p0 p1 p2 p3", "", "p2", 2, 0, "0,2"},
		{"a job that is deleted lets go of all", newJob(func(j *batchv1.Job) { j.DeletionTimestamp = &metav1.Time{Time: epoch} }), "run ok", "p0 p1", "p1", "", 0, 0, ""},
		{"a pod that carries its index's count waits", newJob(isIndexed, func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = ptr(int32(2)) }), "fail/0/0", "", "", "", 0, 0, ""},
		{"until its successor is there", newJob(isIndexed, func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = ptr(int32(2)) }), "fail/0/0 run/0/1", "p0", "", "p0", 0, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := see(c.job, c.pods)
			o := evaluate(v)
			free, _, _ := account(v, &o)
			var names []string
			for _, p := range free {
				names = append(names, p.Name)
			}
			slices.Sort(names)
			st := c.job.Status
			if got := strings.Join(names, " "); got != c.free {
				t.Errorf("freed %q, want %q", got, c.free)
			}
			if a, b := uids(st.UncountedTerminatedPods.Succeeded), uids(st.UncountedTerminatedPods.Failed); a != c.okRec || b != c.failRec {
				t.Errorf("on record %q and %q, want %q and %q", a, b, c.okRec, c.failRec)
			}
			if st.Succeeded != c.succeeded || st.Failed != c.lost || st.CompletedIndexes != c.completed {
				t.Errorf("succeeded %d, failed %d, completed %q", st.Succeeded, st.Failed, st.CompletedIndexes)
			}
		})
	}
}

// TestAccountIsIdempotent: writing the status may fail after any step, and the same pods come again.
func TestAccountIsIdempotent(t *testing.T) {
	j := newJob()
	for range 3 {
		v := see(j, "ok ok fail")
		o := evaluate(v)
		account(v, &o)
		if o.succeeded != 2 || o.failed != 1 {
			t.Fatalf("%d succeeded, %d failed", o.succeeded, o.failed)
		}
	}
	v := see(j, "")
	o := evaluate(v)
	account(v, &o)
	if j.Status.Succeeded != 2 || j.Status.Failed != 1 || len(j.Status.UncountedTerminatedPods.Succeeded) != 0 {
		t.Errorf("status %+v", j.Status)
	}
}

func TestNewPod(t *testing.T) {
	j := newJob(isIndexed, func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = ptr(int32(3)) })
	last := pods("fail/3/1")[0]
	p := newPod(j, 3, last)
	switch {
	case p.GenerateName != "work-3-" || p.Spec.Hostname != "work-3":
		t.Errorf("name %q, hostname %q", p.GenerateName, p.Spec.Hostname)
	case p.Labels[batchv1.JobCompletionIndexAnnotation] != "3" || p.Annotations[batchv1.JobCompletionIndexAnnotation] != "3":
		t.Errorf("labels %v, annotations %v", p.Labels, p.Annotations)
	case p.Annotations[batchv1.JobIndexFailureCountAnnotation] != "2":
		t.Errorf("annotations %v", p.Annotations)
	case !tracked(p):
		t.Error("no finalizer")
	case p.Spec.Containers[0].Env[0].Name != indexEnv:
		t.Errorf("env %v", p.Spec.Containers[0].Env)
	case len(j.Spec.Template.Spec.Containers[0].Env) != 0:
		t.Error("the template was changed")
	}
	if n := indexedName(strings.Repeat("x", 63), "12"); len(n) != maxPrefix || !strings.HasSuffix(n, "x-12-") {
		t.Errorf("generateName %q", n)
	}
	if p := newPod(newJob(), noIndex, nil); p.GenerateName != "work-" || p.Spec.Hostname != "" {
		t.Errorf("name %q", p.GenerateName)
	}
}
