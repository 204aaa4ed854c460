package quota

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

func pod(f func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("500m"), "example.com/gpu": resource.MustParse("2")}, Limits: corev1.ResourceList{"memory": resource.MustParse("1Gi")},
	}}}}}
	if f != nil {
		f(p)
	}
	return p
}

func TestPodUsage(t *testing.T) {
	u, err := podUsage(pod(nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[corev1.ResourceName]string{"pods": "1", "cpu": "500m", "requests.cpu": "500m", "limits.memory": "1Gi", "requests.example.com/gpu": "2", "count/pods": "1"} {
		if q := u[name]; q.String() != want {
			t.Errorf("%s: %s, want %s", name, q.String(), want)
		}
	}
	u, err = podUsage(pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))
	if _, ok := u["pods"]; err != nil || ok || len(u) != 1 {
		t.Errorf("an ended pod: %v, %v", u, err)
	}
}

func TestPodConstraintsNameTheContainer(t *testing.T) {
	err := podConstraints([]corev1.ResourceName{"limits.cpu", "requests.cpu", "pods"}, pod(nil))
	if err == nil || !strings.Contains(err.Error(), "must specify limits.cpu for: c") {
		t.Errorf("%v", err)
	}
}

func TestScopedUsageStats(t *testing.T) {
	deadline := int64(5)
	objects := []runtime.Object{pod(nil), pod(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = &deadline }), pod(func(p *corev1.Pod) { p.Spec.Containers[0].Resources = corev1.ResourceRequirements{} })}
	conf := NewConfiguration(func(gvr schema.GroupVersionResource, _ string) ([]runtime.Object, error) {
		if gvr.Resource == "pods" {
			return objects, nil
		}
		return nil, nil
	})
	e := generic.NewRegistry(conf.Evaluators()).Get(schema.GroupResource{Resource: "pods"})
	for scope, want := range map[corev1.ResourceQuotaScope]string{corev1.ResourceQuotaScopeTerminating: "1", corev1.ResourceQuotaScopeNotTerminating: "2", corev1.ResourceQuotaScopeBestEffort: "1"} {
		stats, err := e.UsageStats(quota.UsageStatsOptions{Namespace: "n", Resources: []corev1.ResourceName{"pods"}, Scopes: []corev1.ResourceQuotaScope{scope}})
		if err != nil {
			t.Fatal(err)
		}
		if q := stats.Used["pods"]; q.String() != want {
			t.Errorf("%s: %s, want %s", scope, q.String(), want)
		}
	}
}

func TestServicesAndClaims(t *testing.T) {
	conf := generic.NewRegistry(NewConfiguration(nil).Evaluators())
	u, err := conf.Get(schema.GroupResource{Resource: "services"}).Usage(&corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: make([]corev1.ServicePort, 2)}})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := u[corev1.ResourceServicesNodePorts], u[corev1.ResourceServicesLoadBalancers]; a.Value() != 2 || b.Value() != 1 {
		t.Errorf("%v", u)
	}
	gold := "gold"
	u, err = conf.Get(schema.GroupResource{Resource: "persistentvolumeclaims"}).Usage(&corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &gold, Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("5Gi")}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if q := u["gold.storageclass.storage.k8s.io/requests.storage"]; q.String() != "5Gi" {
		t.Errorf("%v", u)
	}
}
