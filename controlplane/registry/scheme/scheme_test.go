package scheme

import (
	"net/url"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

func TestHubIsTheAPIType(t *testing.T) {
	s := Scheme()
	for _, g := range groups {
		if !g.hub {
			continue
		}
		for kind, typ := range s.KnownTypes(schema.GroupVersion{Group: g.gv.Group, Version: runtime.APIVersionInternal}) {
			if v, ok := s.KnownTypes(g.gv)[kind]; ok && v != typ && kind != "WatchEvent" {
				t.Errorf("%s %s: hub %v, served %v", g.gv, kind, typ, v)
			}
		}
	}
	p := &corev1.Pod{}
	out, err := s.UnsafeConvertToVersion(p, corev1.SchemeGroupVersion)
	if err != nil || out != runtime.Object(p) {
		t.Errorf("a pod is copied on its way out: %v", err)
	}
}

func TestAutoscalerKeepsAllThroughV1(t *testing.T) {
	q := resource.MustParse("10Mi")
	in := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "h", Annotations: map[string]string{"a": "b"}},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			MaxReplicas: 3,
			Metrics: []autoscalingv2.MetricSpec{
				{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: ptr.To[int32](50)}}},
				{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "memory", Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: &q}}},
			},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](5)}},
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			CurrentReplicas: 2,
			Conditions:      []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: "AbleToScale", Status: "True"}},
		},
	}
	before := in.DeepCopy()
	v1, err := Scheme().ConvertToVersion(in, autoscalingv1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	if p := v1.(*autoscalingv1.HorizontalPodAutoscaler).Spec.TargetCPUUtilizationPercentage; p == nil || *p != 50 {
		t.Errorf("v1 has no cpu target: %v", p)
	}
	if !apiequality.Semantic.DeepEqual(in, before) {
		t.Error("the conversion changed its input")
	}
	back, err := Scheme().ConvertToVersion(v1, autoscalingv2.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	back.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if !apiequality.Semantic.DeepEqual(back, in) {
		t.Errorf("got %+v, want %+v", back, in)
	}
}

func TestEventBothWays(t *testing.T) {
	in := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "n"}, EventTime: metav1.NowMicro(), Note: "note", Reason: "r", Action: "a", Type: "Normal",
		ReportingController: "c", ReportingInstance: "i", Regarding: corev1.ObjectReference{Kind: "Pod", Name: "p"},
		Series: &eventsv1.EventSeries{Count: 2, LastObservedTime: metav1.NowMicro()}, DeprecatedCount: 4,
	}
	core, err := Scheme().ConvertToVersion(in, schema.GroupVersion{Group: "events.k8s.io", Version: runtime.APIVersionInternal})
	if err != nil {
		t.Fatal(err)
	}
	if e := core.(*corev1.Event); e.Message != "note" || e.InvolvedObject.Name != "p" || e.Count != 4 {
		t.Errorf("%+v", e)
	}
	back, err := Scheme().ConvertToVersion(core, eventsv1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	back.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if !apiequality.Semantic.DeepEqual(back, in) {
		t.Errorf("got %+v, want %+v", back, in)
	}
}

func TestOptionsFromTheQuery(t *testing.T) {
	q, _ := url.ParseQuery("container=c&command=sh&command=-c&stdin=true&tty=false&stdout=1&stderr=")
	var exec corev1.PodExecOptions
	if err := ParameterCodec().DecodeParameters(q, corev1.SchemeGroupVersion, &exec); err != nil {
		t.Fatal(err)
	}
	if exec.Container != "c" || len(exec.Command) != 2 || !exec.Stdin || !exec.Stdout || !exec.Stderr || exec.TTY {
		t.Errorf("%+v", exec)
	}
	q, _ = url.ParseQuery("follow=true&tailLines=5&sinceTime=2026-01-02T03:04:05Z&stream=Stdout")
	var logs corev1.PodLogOptions
	if err := ParameterCodec().DecodeParameters(q, corev1.SchemeGroupVersion, &logs); err != nil {
		t.Fatal(err)
	}
	if !logs.Follow || *logs.TailLines != 5 || logs.SinceTime.Year() != 2026 || *logs.Stream != "Stdout" {
		t.Errorf("%+v", logs)
	}
	q, _ = url.ParseQuery("tailLines=many")
	if err := ParameterCodec().DecodeParameters(q, corev1.SchemeGroupVersion, &corev1.PodLogOptions{}); err == nil {
		t.Error("a number that isn't one was taken")
	}
	q, _ = url.ParseQuery("ports=80&ports=443")
	var forward corev1.PodPortForwardOptions
	if err := ParameterCodec().DecodeParameters(q, corev1.SchemeGroupVersion, &forward); err != nil || len(forward.Ports) != 2 {
		t.Errorf("%v, %v", forward.Ports, err)
	}
}

func TestFieldLabels(t *testing.T) {
	for _, c := range []struct {
		gvk         schema.GroupVersionKind
		label, want string
	}{
		{corev1.SchemeGroupVersion.WithKind("Pod"), "spec.nodeName", "spec.nodeName"},
		{corev1.SchemeGroupVersion.WithKind("Pod"), "spec.host", "spec.nodeName"},
		{corev1.SchemeGroupVersion.WithKind("Pod"), "spec.hostname", ""},
		{eventsv1.SchemeGroupVersion.WithKind("Event"), "regarding.name", "involvedObject.name"},
		{corev1.SchemeGroupVersion.WithKind("ConfigMap"), "metadata.name", "metadata.name"},
		{corev1.SchemeGroupVersion.WithKind("ConfigMap"), "data", ""},
	} {
		got, _, err := Scheme().ConvertFieldLabel(c.gvk, c.label, "v")
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s %s: %q, %v", c.gvk.Kind, c.label, got, err)
		}
	}
}
