package controllers_test

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
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/cache"
)

// kubelet plays the two nodes work-1 and work-2. What a pod does there, its image says: "ok" succeeds, "fail" fails
// with exit code 3, "unready" runs without getting ready, "deaf" ignores being deleted; others run and are ready.
type kubelet struct{ ips atomic.Int32 }

var workNodes = sync.OnceFunc(func() {
	ctx := context.Background()
	for _, name := range []string{"work-1", "work-2"} {
		n, err := server.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pool": "work"}}}, metav1.CreateOptions{})
		if err != nil {
			panic(err)
		}
		n.Status = corev1.NodeStatus{
			Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("40"), corev1.ResourceMemory: resource.MustParse("40Gi"), corev1.ResourcePods: resource.MustParse("500")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}},
		}
		for {
			if _, err = server.Client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}); err == nil {
				break
			}
			got, err := server.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				panic(err)
			}
			got.Status = n.Status
			n = got
		}
		go heartbeat(ctx, name)
	}
	k := &kubelet{}
	_, err := server.Informers.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: k.see, UpdateFunc: func(_, cur any) { k.see(cur) },
	})
	if err != nil {
		panic(err)
	}
})

func (k *kubelet) see(obj any) {
	p, ok := obj.(*corev1.Pod)
	if !ok || !strings.HasPrefix(p.Spec.NodeName, "work-") {
		return
	}
	go k.step(p.DeepCopy())
}

// step moves a pod on; an error is no matter, since an event follows whatever came between.
func (k *kubelet) step(p *corev1.Pod) {
	ctx, api := context.Background(), server.Client.CoreV1().Pods(p.Namespace)
	image := p.Spec.Containers[0].Image
	ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	end := func(phase corev1.PodPhase, code int32) {
		p.Status.Phase = phase
		for i := range p.Status.Conditions {
			p.Status.Conditions[i].Status = corev1.ConditionFalse
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: p.Spec.Containers[0].Name, Image: image, ImageID: image, State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "End", FinishedAt: metav1.NewTime(time.Now().Add(-time.Hour)), StartedAt: metav1.NewTime(time.Now().Add(-2 * time.Hour))},
		}}}
		_, _ = api.UpdateStatus(ctx, p, metav1.UpdateOptions{})
	}
	switch {
	case p.DeletionTimestamp != nil && image == "deaf":
	case p.DeletionTimestamp != nil && !ended:
		end(corev1.PodFailed, 137)
	case p.DeletionTimestamp != nil:
		zero := int64(0)
		_ = api.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &p.UID}})
	case p.Status.Phase == corev1.PodPending:
		p.Status.Phase = corev1.PodRunning
		p.Status.PodIP = fmt.Sprintf("10.42.%d.%d", 100+k.ips.Load()/250, k.ips.Add(1)%250+1)
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		ready := corev1.ConditionTrue
		if image != "run" && image != "run2" && image != "deaf" {
			ready = corev1.ConditionFalse
		}
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.Now()})
		now := metav1.Now()
		p.Status.StartTime = &now
		_, _ = api.UpdateStatus(ctx, p, metav1.UpdateOptions{})
	case image == "ok" && !ended:
		end(corev1.PodSucceeded, 0)
	case image == "fail" && !ended:
		end(corev1.PodFailed, 3)
	}
}

func template(app, image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"pool": "work"},
			Containers:   []corev1.Container{{Name: "c", Image: image}},
		},
	}
}

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func ptrTo[T any](v T) *T { return &v }

func pods(t *testing.T, ns string) []corev1.Pod {
	t.Helper()
	l, err := server.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return l.Items
}

// images counts the pods that are not being deleted, by image.
func images(t *testing.T, ns string) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, p := range pods(t, ns) {
		if p.DeletionTimestamp == nil {
			out[p.Spec.Containers[0].Image]++
		}
	}
	return out
}

func want(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func TestDeploymentRollsOutAndBack(t *testing.T) {
	t.Parallel()
	workNodes()
	for _, strategy := range []appsv1.DeploymentStrategyType{appsv1.RollingUpdateDeploymentStrategyType, appsv1.RecreateDeploymentStrategyType} {
		t.Run(string(strategy), func(t *testing.T) {
			t.Parallel()
			ns, client := namespace(t)
			api := client.AppsV1().Deployments(ns)
			_, err := api.Create(t.Context(), &appsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{"kubernetes.io/change-cause": "first"}},
				Spec:       appsv1.DeploymentSpec{Replicas: ptrTo(int32(4)), Selector: selector("web"), Template: template("web", "run"), Strategy: appsv1.DeploymentStrategy{Type: strategy}},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			complete := func(revision, image string) {
				t.Helper()
				eventually(t, "revision "+revision+" is complete", func() error {
					d, err := api.Get(t.Context(), "web", metav1.GetOptions{})
					if err != nil {
						return err
					}
					progress := ""
					for _, c := range d.Status.Conditions {
						if c.Type == appsv1.DeploymentProgressing {
							progress = c.Reason
						}
					}
					i, st := images(t, ns), d.Status
					return want(st.ObservedGeneration == d.Generation && st.UpdatedReplicas == *d.Spec.Replicas && st.AvailableReplicas == *d.Spec.Replicas &&
						st.Replicas == *d.Spec.Replicas && d.Annotations["deployment.kubernetes.io/revision"] == revision &&
						progress == "NewReplicaSetAvailable" && len(i) == 1 && i[image] == int(*d.Spec.Replicas), "%v, %s, %+v, %v", i, progress, st, d.Annotations)
				})
			}
			change := func(patch string) {
				t.Helper()
				if _, err := api.Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			complete("1", "run")
			change(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"run2"}]}}}}`)
			complete("2", "run2")
			change(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"run"}]}}}}`)
			complete("3", "run")
			if _, err := api.UpdateScale(t.Context(), "web", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 6}}, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			complete("3", "run")
			sets, err := client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{})
			if err != nil || len(sets.Items) != 2 {
				t.Fatalf("%d ReplicaSets, %v", len(sets.Items), err)
			}
			for _, rs := range sets.Items {
				if *rs.Spec.Replicas > 0 && (rs.Annotations["deployment.kubernetes.io/revision-history"] != "1" || rs.Annotations["kubernetes.io/change-cause"] != "first") {
					t.Errorf("annotations %v", rs.Annotations)
				}
			}
			if err := api.Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: ptrTo(metav1.DeletePropagationForeground)}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all is gone", func() error {
				n := len(pods(t, ns))
				return want(n == 0, "%d pods are left", n)
			})
		})
	}
}

func TestDeploymentThatCannotProgress(t *testing.T) {
	t.Parallel()
	workNodes()
	ns, client := namespace(t)
	api := client.AppsV1().Deployments(ns)
	_, err := api.Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptrTo(int32(1)), Selector: selector("web"), Template: template("web", "unready"), ProgressDeadlineSeconds: ptrTo(int32(1)),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deadline is reported", func() error {
		d, err := api.Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range d.Status.Conditions {
			if c.Reason == "ProgressDeadlineExceeded" && strings.Contains(c.Message, "has timed out progressing.") {
				return nil
			}
		}
		return fmt.Errorf("%+v", d.Status.Conditions)
	})
}

func TestReplicaSetAdoptsAndReleases(t *testing.T) {
	t.Parallel()
	workNodes()
	ns, client := namespace(t)
	bare := template("web", "run")
	eventually(t, "an orphan is made", func() error {
		_, err := client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Labels: bare.Labels}, Spec: bare.Spec}, metav1.CreateOptions{})
		return err
	})
	// A controller that hears of the set first makes two pods, and may then delete the orphan as one too many.
	eventually(t, "the controllers see the orphan", func() error {
		_, err := server.Informers.Core().V1().Pods().Lister().Pods(ns).Get("orphan")
		return err
	})
	rs, err := client.AppsV1().ReplicaSets(ns).Create(t.Context(), &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.ReplicaSetSpec{Replicas: ptrTo(int32(2)), Selector: selector("web"), Template: bare},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	orphan := func() *corev1.Pod {
		p, err := client.CoreV1().Pods(ns).Get(t.Context(), "orphan", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	eventually(t, "the orphan is adopted", func() error {
		n := len(pods(t, ns))
		return want(metav1.IsControlledBy(orphan(), rs) && n == 2, "%d pods, owner %v", n, orphan().OwnerReferences)
	})
	_, err = client.CoreV1().Pods(ns).Patch(t.Context(), "orphan", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"app":"debug"}}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is released and replaced", func() error {
		n := len(pods(t, ns))
		return want(len(orphan().OwnerReferences) == 0 && n == 3, "%d pods, owner %v", n, orphan().OwnerReferences)
	})
	if err := client.AppsV1().ReplicaSets(ns).Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: ptrTo(metav1.DeletePropagationOrphan)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pods are orphaned", func() error {
		for _, p := range pods(t, ns) {
			if len(p.OwnerReferences) != 0 || p.DeletionTimestamp != nil {
				return fmt.Errorf("pod %s: %v", p.Name, p.OwnerReferences)
			}
		}
		return nil
	})
}

func TestReplicationController(t *testing.T) {
	t.Parallel()
	workNodes()
	ns, client := namespace(t)
	tmpl := template("old", "run")
	_, err := client.CoreV1().ReplicationControllers(ns).Create(t.Context(), &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "old"},
		Spec:       corev1.ReplicationControllerSpec{Replicas: ptrTo(int32(2)), Selector: map[string]string{"app": "old"}, Template: &tmpl},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "two are ready", func() error {
		rc, err := client.CoreV1().ReplicationControllers(ns).Get(t.Context(), "old", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return want(rc.Status.ReadyReplicas == 2 && rc.Status.AvailableReplicas == 2, "%+v", rc.Status)
	})
}

func TestStatefulSetInOrder(t *testing.T) {
	t.Parallel()
	workNodes()
	ns, client := namespace(t)
	api := client.AppsV1().StatefulSets(ns)
	tmpl := template("db", "run")
	_, err := api.Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: ptrTo(int32(3)), ServiceName: "db", Selector: selector("db"), Template: tmpl,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rolled := func(image string, n int32) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d pods of %s", n, image), func() error {
			s, err := api.Get(t.Context(), "db", metav1.GetOptions{})
			if err != nil {
				return err
			}
			i, st := images(t, ns), s.Status
			return want(len(i) == 1 && i[image] == int(n) && st.ReadyReplicas == n && st.CurrentReplicas == n && st.CurrentRevision == st.UpdateRevision, "%v, %+v", i, st)
		})
	}
	rolled("run", 3)
	list := pods(t, ns)
	slices.SortFunc(list, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for i, p := range list {
		if p.Labels["apps.kubernetes.io/pod-index"] != fmt.Sprint(i) && list[0].CreationTimestamp != p.CreationTimestamp {
			t.Errorf("pod %d is %s", i, p.Name)
		}
	}
	if _, err := api.Patch(t.Context(), "db", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"run2"}]}}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	rolled("run2", 3)
	if _, err := api.UpdateScale(t.Context(), "db", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 1}}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	rolled("run2", 1)
	revs, err := client.AppsV1().ControllerRevisions(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(revs.Items) != 2 {
		t.Fatalf("%d revisions, %v", len(revs.Items), err)
	}
	// What "kubectl rollout undo" does: it applies the revision's data as a strategic merge patch.
	for _, r := range revs.Items {
		if r.Revision == 1 {
			if _, err := api.Patch(t.Context(), "db", types.StrategicMergePatchType, r.Data.Raw, metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	rolled("run", 1)
}

func TestStatefulSetClaims(t *testing.T) {
	t.Parallel()
	ns, client := namespace(t)
	_, err := client.AppsV1().StatefulSets(ns).Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: ptrTo(int32(2)), ServiceName: "db", Selector: selector("db"), Template: template("db", "run"), PodManagementPolicy: appsv1.ParallelPodManagement,
			PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: "Delete", WhenScaled: "Delete"},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{
				ObjectMeta: metav1.ObjectMeta{Name: "data"},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
				},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owners := func() (out []string) {
		l, err := client.CoreV1().PersistentVolumeClaims(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range l.Items {
			s := c.Name + ":"
			for _, r := range c.OwnerReferences {
				s += r.Kind
			}
			out = append(out, s)
		}
		return out
	}
	eventually(t, "two claims, owned by the set", func() error {
		got := strings.Join(owners(), " ")
		return want(got == "data-db-0:StatefulSet data-db-1:StatefulSet" && len(pods(t, ns)) == 2, "%s", got)
	})
	if _, err := client.AppsV1().StatefulSets(ns).Patch(t.Context(), "db", types.MergePatchType, []byte(`{"spec":{"replicas":1}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one claim goes with its pod", func() error {
		got := strings.Join(owners(), " ")
		return want(got == "data-db-0:StatefulSet" && len(pods(t, ns)) == 1, "%s", got)
	})
}

func TestDaemonSetOnEveryNode(t *testing.T) {
	t.Parallel()
	workNodes()
	ns, client := namespace(t)
	api := client.AppsV1().DaemonSets(ns)
	_, err := api.Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent"},
		Spec:       appsv1.DaemonSetSpec{Selector: selector("agent"), Template: template("agent", "run")},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rolled := func(image string) {
		t.Helper()
		eventually(t, image+" on both nodes", func() error {
			ds, err := api.Get(t.Context(), "agent", metav1.GetOptions{})
			if err != nil {
				return err
			}
			i, st := images(t, ns), ds.Status
			return want(len(i) == 1 && i[image] == 2 && st.NumberAvailable == 2 && st.UpdatedNumberScheduled == 2 && st.DesiredNumberScheduled == 2 && st.ObservedGeneration == ds.Generation, "%v, %+v", i, st)
		})
	}
	rolled("run")
	on := map[string]bool{}
	for _, p := range pods(t, ns) {
		on[p.Spec.NodeName] = true
	}
	if len(on) != 2 {
		t.Errorf("nodes %v", on)
	}
	if _, err := api.Patch(t.Context(), "agent", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"run2"}]}}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	rolled("run2")
}

func job(ns, image string, edit ...func(*batchv1.JobSpec)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "work", Namespace: ns}, Spec: batchv1.JobSpec{
		Completions: ptrTo(int32(4)), Parallelism: ptrTo(int32(2)), Template: template("work", image),
	}}
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	for _, e := range edit {
		e(&j.Spec)
	}
	return j
}

func TestJobs(t *testing.T) {
	t.Parallel()
	workNodes()
	indexed := func(s *batchv1.JobSpec) { s.CompletionMode = ptrTo(batchv1.IndexedCompletion) }
	for name, c := range map[string]struct {
		image  string
		edit   []func(*batchv1.JobSpec)
		end    batchv1.JobConditionType
		reason string
		check  func(batchv1.JobStatus) error
	}{
		"complete": {"ok", nil, batchv1.JobComplete, "CompletionsReached", func(s batchv1.JobStatus) error { return want(s.Succeeded == 4, "%+v", s) }},
		"indexed": {"ok", []func(*batchv1.JobSpec){indexed}, batchv1.JobComplete, "CompletionsReached", func(s batchv1.JobStatus) error {
			return want(s.Succeeded == 4 && s.CompletedIndexes == "0-3", "%+v", s)
		}},
		"work queue":     {"ok", []func(*batchv1.JobSpec){func(s *batchv1.JobSpec) { s.Completions = nil }}, batchv1.JobComplete, "CompletionsReached", nil},
		"nothing to do":  {"ok", []func(*batchv1.JobSpec){func(s *batchv1.JobSpec) { s.Completions = ptrTo(int32(0)) }}, batchv1.JobComplete, "CompletionsReached", nil},
		"back-off limit": {"fail", []func(*batchv1.JobSpec){func(s *batchv1.JobSpec) { s.BackoffLimit = ptrTo(int32(1)) }}, batchv1.JobFailed, "BackoffLimitExceeded", nil},
		"deadline": {"run", []func(*batchv1.JobSpec){func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptrTo(int64(1)) }}, batchv1.JobFailed, "DeadlineExceeded", func(s batchv1.JobStatus) error {
			return want(s.Active == 0, "%+v", s)
		}},
		"failure policy": {"fail", []func(*batchv1.JobSpec){func(s *batchv1.JobSpec) {
			s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action:      batchv1.PodFailurePolicyActionFailJob,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{3}},
			}}}
		}}, batchv1.JobFailed, "PodFailurePolicy", nil},
		"success policy": {"ok", []func(*batchv1.JobSpec){indexed, func(s *batchv1.JobSpec) {
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptrTo("0")}}}
			s.Parallelism = ptrTo(int32(1))
		}}, batchv1.JobComplete, "SuccessPolicy", nil},
		"failed indexes": {"fail", []func(*batchv1.JobSpec){indexed, func(s *batchv1.JobSpec) { s.BackoffLimitPerIndex = ptrTo(int32(0)) }}, batchv1.JobFailed, "FailedIndexes", func(s batchv1.JobStatus) error {
			return want(s.FailedIndexes != nil && *s.FailedIndexes == "0-3" && s.Failed == 4, "%+v", s)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns, client := namespace(t)
			if _, err := client.BatchV1().Jobs(ns).Create(t.Context(), job(ns, c.image, c.edit...), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, string(c.end), func() error {
				j, err := client.BatchV1().Jobs(ns).Get(t.Context(), "work", metav1.GetOptions{})
				if err != nil {
					return err
				}
				for _, cond := range j.Status.Conditions {
					if cond.Type == c.end && cond.Reason == c.reason {
						if c.check != nil {
							return c.check(j.Status)
						}
						return nil
					}
				}
				return fmt.Errorf("%+v", j.Status)
			})
			eventually(t, "no pod keeps its finalizer", func() error {
				for _, p := range pods(t, ns) {
					if slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) {
						return errors.New(p.Name)
					}
				}
				return nil
			})
		})
	}
}

func TestJobSuspendResumeDelete(t *testing.T) {
	t.Parallel()
	workNodes()
	ns, client := namespace(t)
	api := client.BatchV1().Jobs(ns)
	if _, err := api.Create(t.Context(), job(ns, "run", func(s *batchv1.JobSpec) { s.Suspend = ptrTo(true) }), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	state := func(what string, ok func(*batchv1.Job) bool) {
		t.Helper()
		eventually(t, what, func() error {
			j, err := api.Get(t.Context(), "work", metav1.GetOptions{})
			if err != nil {
				return err
			}
			return want(ok(j), "%+v", j.Status)
		})
	}
	suspend := func(v string) {
		t.Helper()
		if _, err := api.Patch(t.Context(), "work", types.MergePatchType, []byte(`{"spec":{"suspend":`+v+`}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	state("suspended", func(j *batchv1.Job) bool { return len(j.Status.Conditions) == 1 && j.Status.StartTime == nil })
	suspend("false")
	state("two run", func(j *batchv1.Job) bool {
		return j.Status.Active == 2 && *j.Status.Ready == 2 && j.Status.StartTime != nil
	})
	suspend("true")
	state("none runs, none failed", func(j *batchv1.Job) bool {
		return j.Status.Active == 0 && j.Status.Failed == 0 && *j.Status.Terminating == 0
	})
	suspend("false")
	state("two run again", func(j *batchv1.Job) bool { return j.Status.Active == 2 && *j.Status.Ready == 2 })
	if err := api.Delete(t.Context(), "work", metav1.DeleteOptions{PropagationPolicy: ptrTo(metav1.DeletePropagationBackground)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is gone", func() error { n := len(pods(t, ns)); return want(n == 0, "%d pods", n) })
}

func TestCronJobServesAStartTime(t *testing.T) {
	t.Parallel()
	workNodes()
	ns, client := namespace(t)
	api := client.BatchV1().CronJobs(ns)
	cj, err := api.Create(t.Context(), &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "tick"},
		Spec: batchv1.CronJobSpec{
			Schedule: "* * * * *", TimeZone: ptrTo("Europe/Berlin"),
			JobTemplate: batchv1.JobTemplateSpec{Spec: job(ns, "ok").Spec},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it was last served a while ago", func() error {
		cj.Status.LastScheduleTime = &metav1.Time{Time: time.Now().Add(-90 * time.Second)}
		if _, err := api.UpdateStatus(t.Context(), cj, metav1.UpdateOptions{}); err != nil {
			cj, _ = api.Get(t.Context(), "tick", metav1.GetOptions{})
			return err
		}
		return nil
	})
	eventually(t, "a Job ran and is noted", func() error {
		got, err := api.Get(t.Context(), "tick", metav1.GetOptions{})
		if err != nil {
			return err
		}
		jobs, err := client.BatchV1().Jobs(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		return want(len(jobs.Items) >= 1 && got.Status.LastSuccessfulTime != nil && len(got.Status.Active) == 0 &&
			jobs.Items[0].Annotations[batchv1.CronJobScheduledTimestampAnnotation] != "", "%d jobs, %+v", len(jobs.Items), got.Status)
	})
}

func TestServiceEndpointsFollowReadiness(t *testing.T) {
	t.Parallel()
	workNodes()
	ns, client := namespace(t)
	_, err := client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
			TrafficDistribution: ptrTo(corev1.ServiceTrafficDistributionPreferSameNode),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slice := func() []discoveryv1.Endpoint {
		l, err := client.DiscoveryV1().EndpointSlices(ns).List(t.Context(), metav1.ListOptions{LabelSelector: labels.Set{discoveryv1.LabelServiceName: "web"}.String()})
		if err != nil {
			t.Fatal(err)
		}
		var out []discoveryv1.Endpoint
		for _, s := range l.Items {
			out = append(out, s.Endpoints...)
		}
		return out
	}
	endpoints := func() (ready, not int) {
		ep, err := client.CoreV1().Endpoints(ns).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return -1, -1
		}
		for _, s := range ep.Subsets {
			ready, not = ready+len(s.Addresses), not+len(s.NotReadyAddresses)
		}
		return ready, not
	}
	eventually(t, "empty Endpoints", func() error { r, n := endpoints(); return want(r == 0 && n == 0, "%d ready, %d not", r, n) })
	tmpl := template("web", "unready")
	var pod *corev1.Pod
	eventually(t, "a pod is made", func() error {
		pod, err = client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-0", Labels: tmpl.Labels}, Spec: tmpl.Spec}, metav1.CreateOptions{})
		return err
	})
	eventually(t, "an endpoint that is not ready", func() error {
		eps := slice()
		r, n := endpoints()
		return want(len(eps) == 1 && !*eps[0].Conditions.Ready && r == 0 && n == 1, "%+v, %d, %d", eps, r, n)
	})
	pod, err = client.CoreV1().Pods(ns).Get(t.Context(), "web-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range pod.Status.Conditions {
		pod.Status.Conditions[i].Status = corev1.ConditionTrue
	}
	if _, err := client.CoreV1().Pods(ns).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	eventually(t, "an endpoint that is ready", func() error {
		eps := slice()
		r, n := endpoints()
		return want(len(eps) == 1 && *eps[0].Conditions.Ready && eps[0].Hints != nil && r == 1 && n == 0, "%+v, %d, %d", eps, r, n)
	})
	if d := time.Since(begin); d > time.Second {
		t.Errorf("readiness took %v to reach the Endpoints", d)
	}
	if err := client.CoreV1().Services(ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all go with the Service", func() error {
		r, _ := endpoints()
		return want(len(slice()) == 0 && r == -1, "%d endpoints in slices", len(slice()))
	})
}

func TestEndpointsByHandAreMirrored(t *testing.T) {
	t.Parallel()
	ns, client := namespace(t)
	if _, err := client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "ext"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ep, err := client.CoreV1().Endpoints(ns).Create(t.Context(), &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "ext"},
		Subsets:    []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.7"}}, Ports: []corev1.EndpointPort{{Name: "http", Port: 8080}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mirrored := func(ip string) {
		t.Helper()
		eventually(t, "mirrored "+ip, func() error {
			l, err := client.DiscoveryV1().EndpointSlices(ns).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			if ip == "" {
				return want(len(l.Items) == 0, "%d slices", len(l.Items))
			}
			return want(len(l.Items) == 1 && len(l.Items[0].Endpoints) == 1 && l.Items[0].Endpoints[0].Addresses[0] == ip, "%+v", l.Items)
		})
	}
	mirrored("192.0.2.7")
	ep.Subsets[0].Addresses[0].IP = "192.0.2.8"
	if _, err := client.CoreV1().Endpoints(ns).Update(t.Context(), ep, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	mirrored("192.0.2.8")
	if err := client.CoreV1().Endpoints(ns).Delete(t.Context(), "ext", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	mirrored("")
}

func TestPodReplacementPolicy(t *testing.T) {
	t.Parallel()
	workNodes()
	for policy, wantPods := range map[batchv1.PodReplacementPolicy]int{batchv1.Failed: 1, batchv1.TerminatingOrFailed: 2} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			ns, client := namespace(t)
			j := job(ns, "deaf", func(s *batchv1.JobSpec) {
				s.Parallelism, s.Completions, s.PodReplacementPolicy = ptrTo(int32(1)), ptrTo(int32(1)), &policy
			})
			if _, err := client.BatchV1().Jobs(ns).Create(t.Context(), j, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			status := func() batchv1.JobStatus {
				got, err := client.BatchV1().Jobs(ns).Get(t.Context(), "work", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				return got.Status
			}
			eventually(t, "one runs", func() error { s := status(); return want(s.Ready != nil && *s.Ready == 1, "%+v", s) })
			if err := client.CoreV1().Pods(ns).Delete(t.Context(), pods(t, ns)[0].Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it terminates", func() error { s := status(); return want(*s.Terminating == 1, "%+v", s) })
			// A pod that was deleted counts as a failure now or later, so its successor waits ten seconds at least.
			time.Sleep(200 * time.Millisecond)
			if n := len(pods(t, ns)); n > wantPods {
				t.Errorf("%d pods", n)
			}
			if s := status(); policy == batchv1.Failed && s.Failed != 0 || policy != batchv1.Failed && s.Failed != 1 {
				t.Errorf("%d failed", s.Failed)
			}
		})
	}
}

func TestQuotaIsReported(t *testing.T) {
	t.Parallel()
	workNodes()
	ns, client := namespace(t)
	if _, err := client.CoreV1().ResourceQuotas(ns).Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "few"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the quota is counted", func() error {
		q, err := client.CoreV1().ResourceQuotas(ns).Get(t.Context(), "few", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return want(len(q.Status.Hard) == 1, "%+v", q.Status)
	})
	if _, err := client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DeploymentSpec{Replicas: ptrTo(int32(3)), Selector: selector("web"), Template: template("web", "run")},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	failure := func() (string, int) {
		d, err := client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range d.Status.Conditions {
			if c.Type == appsv1.DeploymentReplicaFailure {
				return c.Reason + ": " + c.Message, int(d.Status.Replicas)
			}
		}
		return "", int(d.Status.Replicas)
	}
	eventually(t, "the failure is reported", func() error {
		f, n := failure()
		return want(strings.HasPrefix(f, "FailedCreate: ") && strings.Contains(f, "exceeded quota") && n == 1, "%q, %d replicas", f, n)
	})
	if _, err := client.CoreV1().ResourceQuotas(ns).Patch(t.Context(), "few", types.MergePatchType, []byte(`{"spec":{"hard":{"pods":"5"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rest is made", func() error {
		f, n := failure()
		return want(f == "" && n == 3, "%q, %d replicas", f, n)
	})
}
