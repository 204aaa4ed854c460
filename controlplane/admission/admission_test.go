package admission

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// plugin builds one plugin over the given objects, as the API server would.
func plugin[T any](t *testing.T, p T, objects ...runtime.Object) T {
	t.Helper()
	client := fake.NewClientset(objects...)
	f := informers.NewSharedInformerFactory(client, 0)
	switch w := any(p).(type) {
	case *serviceAccount:
		w.SetExternalKubeClientSet(client)
		w.SetExternalKubeInformerFactory(f)
	case *priority:
		w.SetExternalKubeClientSet(client)
		w.SetExternalKubeInformerFactory(f)
	case *limitRanger:
		w.SetLimitRanges(func(ctx context.Context, namespace string) ([]*corev1.LimitRange, error) {
			list, err := client.CoreV1().LimitRanges(namespace).List(ctx, metav1.ListOptions{})
			var out []*corev1.LimitRange
			for i := range list.Items {
				out = append(out, &list.Items[i])
			}
			return out, err
		})
		w.SetExternalKubeInformerFactory(f)
	case *podSecurity:
		w.SetExternalKubeClientSet(client)
		w.SetExternalKubeInformerFactory(f)
	case *nodeRestriction:
		w.SetExternalKubeClientSet(client)
		w.SetExternalKubeInformerFactory(f)
	case *topologyLabels:
		w.SetExternalKubeInformerFactory(f)
	case *declaredFeatures:
		w.SetExternalKubeInformerFactory(f)
	default:
		t.Fatalf("no wiring for %T", p)
	}
	if v, ok := any(p).(admission.InitializationValidator); ok {
		if err := v.ValidateInitialization(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	f.Start(ctx.Done())
	f.WaitForCacheSync(ctx.Done())
	return p
}

func request(obj, old runtime.Object, resource, sub string, op admission.Operation, u user.Info) admission.Attributes {
	ns, name := "default", "x"
	return admission.NewAttributesRecord(obj, old, corev1.SchemeGroupVersion.WithKind(""), ns, name,
		corev1.SchemeGroupVersion.WithResource(resource), sub, op, nil, false, u)
}

func podWith(f func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "default"}, Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "i"}}, Containers: []corev1.Container{{Name: "c"}},
	}}
	if f != nil {
		f(p)
	}
	return p
}

func TestServiceAccountMountsToken(t *testing.T) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}}
	p := plugin(t, &serviceAccount{}, account)
	pod := podWith(nil)
	if err := p.Admit(context.Background(), request(pod, nil, "pods", "", admission.Create, nil), nil); err != nil {
		t.Fatal(err)
	}
	if pod.Spec.ServiceAccountName != "default" || len(pod.Spec.Volumes) != 1 || len(pod.Spec.ImagePullSecrets) != 1 {
		t.Fatalf("%+v", pod.Spec)
	}
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		if len(c.VolumeMounts) != 1 || c.VolumeMounts[0].Name != pod.Spec.Volumes[0].Name || !c.VolumeMounts[0].ReadOnly {
			t.Errorf("%s: %+v", c.Name, c.VolumeMounts)
		}
	}
	no := false
	pod = podWith(func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = &no })
	if err := p.Admit(context.Background(), request(pod, nil, "pods", "", admission.Create, nil), nil); err != nil || len(pod.Spec.Volumes) != 0 {
		t.Errorf("%v, %+v", err, pod.Spec.Volumes)
	}
	pod = podWith(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "none" })
	if err := p.Admit(context.Background(), request(pod, nil, "pods", "", admission.Create, nil), nil); err == nil || !strings.Contains(err.Error(), "error looking up service account default/none") {
		t.Errorf("unknown account: %v", err)
	}
}

func TestPriority(t *testing.T) {
	p := plugin(t, &priority{}, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000},
		&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, Value: 5, GlobalDefault: true})
	for class, want := range map[string]int32{"high": 1000, "": 5} {
		pod := podWith(func(p *corev1.Pod) { p.Spec.PriorityClassName = class })
		if err := p.Admit(context.Background(), request(pod, nil, "pods", "", admission.Create, nil), nil); err != nil {
			t.Fatal(err)
		}
		if *pod.Spec.Priority != want || *pod.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
			t.Errorf("%q: %+v", class, pod.Spec)
		}
	}
	pod := podWith(func(p *corev1.Pod) { p.Spec.PriorityClassName = "gone" })
	if err := p.Admit(context.Background(), request(pod, nil, "pods", "", admission.Create, nil), nil); err == nil || !strings.Contains(err.Error(), "no PriorityClass with name gone was found") {
		t.Errorf("%v", err)
	}
}

func TestDefaultTolerationsAreAddedOnce(t *testing.T) {
	pod := podWith(nil)
	for range 2 {
		if err := (defaultTolerations{}).Admit(context.Background(), request(pod, nil, "pods", "", admission.Create, nil), nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(pod.Spec.Tolerations) != 2 || *pod.Spec.Tolerations[0].TolerationSeconds != 300 {
		t.Errorf("%+v", pod.Spec.Tolerations)
	}
}

func TestLimitRanger(t *testing.T) {
	lr := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "l", Namespace: "default"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type: corev1.LimitTypeContainer, Default: corev1.ResourceList{"cpu": resource.MustParse("500m")}, DefaultRequest: corev1.ResourceList{"cpu": resource.MustParse("100m")},
		Max: corev1.ResourceList{"cpu": resource.MustParse("1")}, Min: corev1.ResourceList{"cpu": resource.MustParse("50m")},
	}}}}
	p := plugin(t, &limitRanger{}, lr)
	pod := podWith(nil)
	a := request(pod, nil, "pods", "", admission.Create, nil)
	if err := p.Admit(context.Background(), a, nil); err != nil {
		t.Fatal(err)
	}
	if got := pod.Spec.Containers[0].Resources; got.Limits.Cpu().String() != "500m" || got.Requests.Cpu().String() != "100m" {
		t.Errorf("%+v", got)
	}
	if err := p.Validate(context.Background(), a, nil); err != nil {
		t.Error(err)
	}
	for cpu, want := range map[string]string{"2": "maximum cpu usage per Container is 1, but limit is 2", "10m": "minimum cpu usage per Container is 50m, but request is 10m"} {
		list := corev1.ResourceList{"cpu": resource.MustParse(cpu)}
		pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Limits: list, Requests: list}
		if err := p.Validate(context.Background(), a, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", cpu, err)
		}
	}
}

func TestPodSecurityEnforcesTheNamespaceLabel(t *testing.T) {
	p, err := newPodSecurity()
	if err != nil {
		t.Fatal(err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}}}
	plug := plugin(t, p.(*podSecurity), ns)
	bad := podWith(func(p *corev1.Pod) { p.Spec.HostNetwork = true })
	if err := plug.Validate(context.Background(), request(bad, nil, "pods", "", admission.Create, &user.DefaultInfo{Name: "u"}), nil); err == nil || !strings.Contains(err.Error(), `violates PodSecurity "baseline:latest": host namespaces`) {
		t.Errorf("%v", err)
	}
	if err := plug.Validate(context.Background(), request(podWith(nil), nil, "pods", "", admission.Create, &user.DefaultInfo{Name: "u"}), nil); err != nil {
		t.Error(err)
	}
}

func TestNodeRestriction(t *testing.T) {
	mine := podWith(func(p *corev1.Pod) { p.Name, p.UID, p.Spec.NodeName = "mine", "u1", "n1" })
	p := plugin(t, &nodeRestriction{}, mine)
	n1 := &user.DefaultInfo{Name: "system:node:n1", Groups: []string{user.NodesGroup}}
	node := func(name string, labels map[string]string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	for title, tc := range map[string]struct {
		a    admission.Attributes
		want string
	}{
		"own node":        {request(node("n1", map[string]string{corev1.LabelHostname: "n1"}), nil, "nodes", "", admission.Create, n1), ""},
		"other node":      {request(node("n2", nil), nil, "nodes", "", admission.Create, n1), "is not allowed to modify node"},
		"role label":      {request(node("n1", map[string]string{"node-role.kubernetes.io/x": ""}), nil, "nodes", "", admission.Create, n1), "not allowed to set the following labels"},
		"a plain pod":     {request(podWith(func(p *corev1.Pod) { p.Spec.NodeName = "n1" }), nil, "pods", "", admission.Create, n1), "can only create mirror pods"},
		"status of other": {request(podWith(nil), podWith(func(p *corev1.Pod) { p.Spec.NodeName = "n2" }), "pods", "status", admission.Update, n1), "can only update pod status"},
		"status of own":   {request(mine, mine, "pods", "status", admission.Update, n1), ""},
		"no node at all":  {request(node("n2", nil), nil, "nodes", "", admission.Create, &user.DefaultInfo{Name: "alice"}), ""},
	} {
		err := p.Admit(context.Background(), tc.a, nil)
		if (tc.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", title, err, tc.want)
		}
	}
}

func TestTopologyLabelsOfTheNode(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{
		corev1.LabelTopologyZone: "z1", corev1.LabelTopologyRegion: "r1", "other": "x",
	}}}
	p := plugin(t, &topologyLabels{}, node)
	for title, c := range map[string]struct {
		node string
		want map[string]string
	}{
		"of the node":    {"n1", map[string]string{"app": "a", corev1.LabelTopologyZone: "z1", corev1.LabelTopologyRegion: "r1"}},
		"unknown node":   {"n2", map[string]string{"app": "a"}},
		"not placed yet": {"", map[string]string{"app": "a"}},
	} {
		b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "x", Labels: map[string]string{"app": "a"}}, Target: corev1.ObjectReference{Kind: "Node", Name: c.node}}
		if err := p.Admit(context.Background(), request(b, nil, "pods", "binding", admission.Create, nil), nil); err != nil || !maps.Equal(b.Labels, c.want) {
			t.Errorf("binding, %s: %v, %v", title, b.Labels, err)
		}
		pod := podWith(func(p *corev1.Pod) { p.Labels, p.Spec.NodeName = map[string]string{"app": "a"}, c.node })
		if err := p.Admit(context.Background(), request(pod, nil, "pods", "", admission.Create, nil), nil); err != nil || !maps.Equal(pod.Labels, c.want) {
			t.Errorf("pod, %s: %v, %v", title, pod.Labels, err)
		}
	}
}

// A node that doesn't say that it can resize init containers isn't asked to.
func TestUpdatesThatTheNodeCannotFollow(t *testing.T) {
	p := plugin(t, &declaredFeatures{}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "old"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "new"}, Status: corev1.NodeStatus{DeclaredFeatures: []string{"InPlacePodVerticalScalingInitContainers"}}})
	for node, allowed := range map[string]bool{"old": false, "new": true, "": true, "gone": false} {
		with := func(cpu string, generation int64) *corev1.Pod {
			return podWith(func(p *corev1.Pod) {
				p.Spec.NodeName, p.Generation = node, generation
				p.Spec.InitContainers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
			})
		}
		err := p.Validate(context.Background(), request(with("2", 2), with("1", 1), "pods", "resize", admission.Update, nil), nil)
		if (err == nil) != allowed {
			t.Errorf("node %q: %v", node, err)
		}
		if err := p.Validate(context.Background(), request(with("1", 1), with("1", 1), "pods", "resize", admission.Update, nil), nil); err != nil {
			t.Errorf("node %q, nothing changed: %v", node, err)
		}
	}
}
