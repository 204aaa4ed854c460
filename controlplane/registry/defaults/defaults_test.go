package defaults

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"busybox": corev1.PullAlways, "busybox:latest": corev1.PullAlways, "busybox:1": corev1.PullIfNotPresent,
		"host:5000/busybox": corev1.PullAlways, "host:5000/busybox:2": corev1.PullIfNotPresent, "b@sha256:aa": corev1.PullIfNotPresent,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

func TestPod(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		HostNetwork: true,
		Volumes:     []corev1.Volume{{Name: "none"}, {Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "x"}}}},
		Containers: []corev1.Container{{
			Name: "c", Image: "app:1", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
			Resources:      corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")}, Requests: corev1.ResourceList{"cpu": resource.MustParse("0.1")}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{}}},
		}},
	}}
	Pod(pod)
	c := pod.Spec.Containers[0]
	switch {
	case pod.Spec.RestartPolicy != corev1.RestartPolicyAlways, pod.Spec.DNSPolicy != corev1.DNSClusterFirst, *pod.Spec.TerminationGracePeriodSeconds != 30,
		pod.Spec.SchedulerName != "default-scheduler", !*pod.Spec.EnableServiceLinks, pod.Spec.SecurityContext == nil:
		t.Errorf("spec: %+v", pod.Spec)
	case pod.Spec.Volumes[0].EmptyDir == nil, *pod.Spec.Volumes[1].Secret.DefaultMode != 0o644:
		t.Errorf("volumes: %+v", pod.Spec.Volumes)
	case c.Ports[0].HostPort != 80, c.Ports[0].Protocol != "TCP", c.ImagePullPolicy != corev1.PullIfNotPresent, c.TerminationMessagePath != "/dev/termination-log":
		t.Errorf("container: %+v", c)
	case c.Resources.Requests.Memory().String() != "1Gi", c.Resources.Requests.Cpu().String() != "100m":
		t.Errorf("requests: %v", c.Resources.Requests)
	case c.ReadinessProbe.HTTPGet.Path != "/", c.ReadinessProbe.FailureThreshold != 3, c.ReadinessProbe.PeriodSeconds != 10:
		t.Errorf("probe: %+v", c.ReadinessProbe)
	}
}

// A pod's negative grace period is the shortest there is; a template keeps what it says, for its pods.
func TestNegativeGrace(t *testing.T) {
	pod, tmpl := &corev1.Pod{Spec: corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(-7))}}, &corev1.PodTemplate{}
	tmpl.Template.Spec.TerminationGracePeriodSeconds = new(int64(-7))
	Pod(pod)
	PodTemplate(tmpl)
	if g, u := *pod.Spec.TerminationGracePeriodSeconds, *tmpl.Template.Spec.TerminationGracePeriodSeconds; g != 1 || u != -7 {
		t.Errorf("pod %d, template %d; want 1 and -7", g, u)
	}
}

func TestDefaultsAreStable(t *testing.T) {
	s := runtime.NewScheme()
	if err := Register(s); err != nil {
		t.Fatal(err)
	}
	tmpl := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}}}
	for _, obj := range []runtime.Object{
		&corev1.Pod{Spec: tmpl.Spec}, &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: tmpl}}, &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Template: tmpl}},
		&appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: tmpl}}, &batchv1.Job{Spec: batchv1.JobSpec{Template: tmpl}}, &batchv1.CronJob{},
		&corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, SessionAffinity: corev1.ServiceAffinityClientIP, Ports: []corev1.ServicePort{{Port: 1}}}},
	} {
		before := obj.DeepCopyObject()
		s.Default(obj)
		once := obj.DeepCopyObject()
		s.Default(obj)
		if apiequality.Semantic.DeepEqual(before, once) {
			t.Errorf("%T: nothing was defaulted", obj)
		}
		if !apiequality.Semantic.DeepEqual(once, obj) {
			t.Errorf("%T: defaulting twice differs", obj)
		}
	}
}

func TestJob(t *testing.T) {
	three := int32(3)
	j := &batchv1.Job{Spec: batchv1.JobSpec{Parallelism: &three}}
	Job(j)
	if j.Spec.Completions != nil || *j.Spec.BackoffLimit != 6 || *j.Spec.CompletionMode != batchv1.NonIndexedCompletion {
		t.Errorf("%+v", j.Spec) // parallelism alone is a work queue: completions stay open
	}
	j = &batchv1.Job{}
	Job(j)
	if *j.Spec.Completions != 1 || *j.Spec.Parallelism != 1 {
		t.Errorf("%+v", j.Spec)
	}
}
