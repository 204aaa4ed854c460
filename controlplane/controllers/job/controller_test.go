package job

import (
	"context"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/controlplane/controllers/workloadtest"
)

type env struct{ *workloadtest.Cluster }

// start runs the controller and a kubelet that ends each pod as end says; an empty phase leaves it running.
func start(t *testing.T, j *batchv1.Job, end func(*corev1.Pod) corev1.PodPhase) env {
	t.Helper()
	j.Status = batchv1.JobStatus{}
	e := env{workloadtest.New(t, j)}
	ctl, err := New(e.Client, e.Informers, e.Recorder)
	if err != nil {
		t.Fatal(err)
	}
	e.Start(ctl.Run)
	e.Start(func(ctx context.Context) error {
		for ctx.Err() == nil {
			for _, p := range e.Pods() {
				phase := end(&p)
				if phase == "" {
					phase = corev1.PodRunning
				}
				if p.Status.Phase == phase || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
					continue
				}
				p.Status.Phase = phase
				code := int32(0)
				if phase == corev1.PodFailed {
					code = 1
				}
				if phase != corev1.PodRunning {
					p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
						Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(time.Now().Add(-time.Hour))},
					}}}
				}
				_, _ = e.Client.CoreV1().Pods("default").UpdateStatus(ctx, &p, metav1.UpdateOptions{})
			}
			time.Sleep(3 * time.Millisecond)
		}
		return nil
	})
	return e
}

func (e env) get() *batchv1.Job {
	j, err := e.Client.BatchV1().Jobs("default").Get(context.Background(), "work", metav1.GetOptions{})
	if err != nil {
		e.T.Fatal(err)
	}
	return j
}

func (e env) update(change func(*batchv1.Job)) {
	for {
		j := e.get()
		change(j)
		_, err := e.Client.BatchV1().Jobs("default").Update(context.Background(), j, metav1.UpdateOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			e.T.Fatal(err)
		}
	}
}

func (e env) is(t batchv1.JobConditionType) func() bool {
	return func() bool { return isTrue(condition(e.get(), t)) }
}

func ends(phase corev1.PodPhase) func(*corev1.Pod) corev1.PodPhase {
	return func(*corev1.Pod) corev1.PodPhase { return phase }
}

func (e env) noFinalizers() bool {
	for _, p := range e.Pods() {
		if tracked(&p) {
			return false
		}
	}
	return true
}

func TestCompletes(t *testing.T) {
	for name, edit := range map[string]func(*batchv1.Job){
		"NonIndexed": func(*batchv1.Job) {},
		"Indexed":    isIndexed,
		"work queue": func(j *batchv1.Job) { j.Spec.Completions = nil },
	} {
		t.Run(name, func(t *testing.T) {
			j := newJob(edit)
			j.Spec.Parallelism = ptr(int32(3))
			e := start(t, j, ends(corev1.PodSucceeded))
			e.Eventually("it is complete", e.is(batchv1.JobComplete))
			want := int32(4)
			if j.Spec.Completions == nil {
				want = 3
			}
			st := e.get().Status
			if st.Succeeded != want || st.Failed != 0 || st.Active != 0 || st.CompletionTime == nil || st.StartTime == nil ||
				len(st.UncountedTerminatedPods.Succeeded) != 0 || int32(len(e.Pods())) != want {
				t.Errorf("%d pods, status %+v", len(e.Pods()), st)
			}
			if indexed(j) && st.CompletedIndexes != "0-3" {
				t.Errorf("completed indexes %q", st.CompletedIndexes)
			}
			if !isTrue(condition(e.get(), batchv1.JobSuccessCriteriaMet)) {
				t.Error("SuccessCriteriaMet is missing")
			}
			e.Eventually("no pod keeps its finalizer", e.noFinalizers)
		})
	}
}

func TestFails(t *testing.T) {
	j := newJob(func(j *batchv1.Job) { j.Spec.BackoffLimit = ptr(int32(2)) })
	e := start(t, j, ends(corev1.PodFailed))
	e.Eventually("it has failed", e.is(batchv1.JobFailed))
	c := condition(e.get(), batchv1.JobFailed)
	if c.Reason != batchv1.JobReasonBackoffLimitExceeded || e.get().Status.Failed < 3 {
		t.Errorf("reason %s, failed %d", c.Reason, e.get().Status.Failed)
	}
	e.Eventually("no pod keeps its finalizer", e.noFinalizers)
}

func TestFailedIndexIsTriedAgain(t *testing.T) {
	j := newJob(isIndexed, func(j *batchv1.Job) {
		j.Spec.BackoffLimitPerIndex, j.Spec.BackoffLimit = ptr(int32(1)), nil
		j.Spec.Parallelism = ptr(int32(4))
	})
	e := start(t, j, func(p *corev1.Pod) corev1.PodPhase {
		switch indexOf(p) {
		case 1: // fails once
			if countOf(p, batchv1.JobIndexFailureCountAnnotation) == 0 {
				return corev1.PodFailed
			}
		case 2: // fails always
			return corev1.PodFailed
		}
		return corev1.PodSucceeded
	})
	e.Eventually("it has failed", e.is(batchv1.JobFailed))
	st := e.get().Status
	if st.CompletedIndexes != "0,1,3" || *st.FailedIndexes != "2" || st.Failed != 3 || condition(e.get(), batchv1.JobFailed).Reason != batchv1.JobReasonFailedIndexes {
		t.Errorf("completed %q, failed %q, %d failures, %+v", st.CompletedIndexes, *st.FailedIndexes, st.Failed, st.Conditions)
	}
}

func TestSuspendAndResume(t *testing.T) {
	done := false
	j := newJob(func(j *batchv1.Job) { j.Spec.Suspend = ptr(true) })
	e := start(t, j, func(*corev1.Pod) corev1.PodPhase {
		if done {
			return corev1.PodSucceeded
		}
		return ""
	})
	e.Eventually("the suspension is noted", e.is(batchv1.JobSuspended))
	if n := len(e.Pods()); n != 0 {
		t.Errorf("%d pods", n)
	}
	e.update(func(j *batchv1.Job) { j.Spec.Suspend = ptr(false) })
	e.Eventually("pods run", func() bool { return e.get().Status.Active == 2 })
	if c := condition(e.get(), batchv1.JobSuspended); c.Status != corev1.ConditionFalse || c.Reason != "JobResumed" || e.get().Status.StartTime == nil {
		t.Errorf("condition %+v", c)
	}
	e.update(func(j *batchv1.Job) { j.Spec.Suspend = ptr(true) })
	e.Eventually("they are stopped", func() bool { return e.get().Status.Active == 0 && len(e.Pods()) == 0 })
	if f := e.get().Status.Failed; f != 0 {
		t.Errorf("%d failures: stopping is no failure", f)
	}
}

func TestManagedByAnother(t *testing.T) {
	j := newJob(func(j *batchv1.Job) { j.Spec.ManagedBy = ptr("example.com/other") })
	e := start(t, j, ends(""))
	time.Sleep(50 * time.Millisecond)
	if n := len(e.Pods()); n != 0 || e.get().Status.StartTime != nil {
		t.Errorf("%d pods of a Job that another controller manages", n)
	}
}

func TestStraysAreFreed(t *testing.T) {
	j := newJob()
	e := start(t, j, ends(""))
	e.Eventually("pods run", func() bool { return e.get().Status.Active == 2 })
	if err := e.Client.BatchV1().Jobs("default").Delete(context.Background(), "work", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.Eventually("the pods of a Job that is gone lose the finalizer", e.noFinalizers)
}
