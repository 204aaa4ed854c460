package endpoints

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/controlplane/controllers/endpointslice"
	"github.com/mote-edge/mote/controlplane/controllers/workloadtest"
)

func TestSlicesAndEndpointsFollowPods(t *testing.T) {
	l := map[string]string{"app": "web"}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			Selector: l, ClusterIP: "10.43.0.9", ClusterIPs: []string{"10.43.0.9"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	service.Spec.Ports[0].TargetPort.IntVal = 8080
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-0", Namespace: "default", Labels: l},
		Spec:       corev1.PodSpec{NodeName: "n", Hostname: "web-0", Subdomain: "web"},
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	c := workloadtest.New(t, service, pod)
	if _, err := c.Client.CoreV1().Nodes().Create(context.Background(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	sc, err := endpointslice.New(c.Client, c.Informers, c.Recorder)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := New(c.Client, c.Informers, c.Recorder)
	if err != nil {
		t.Fatal(err)
	}
	c.Start(sc.Run)
	c.Start(ec.Run)
	get := func() *corev1.Endpoints {
		ep, err := c.Client.CoreV1().Endpoints("default").Get(context.Background(), "web", metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return ep
	}
	c.Eventually("empty Endpoints exist", func() bool { ep := get(); return ep != nil && len(ep.Subsets) == 0 })
	if ep := get(); ep.Labels["team"] != "a" || ep.Labels[managedByLabel] != manager {
		t.Errorf("labels %v", ep.Labels)
	}

	p, _ := c.Client.CoreV1().Pods("default").Get(context.Background(), "web-0", metav1.GetOptions{})
	p.Status = workloadtest.ReadyStatus(false, time.Now())
	p.Status.PodIP, p.Status.PodIPs = "10.42.0.5", []corev1.PodIP{{IP: "10.42.0.5"}}
	if _, err := c.Client.CoreV1().Pods("default").UpdateStatus(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("an address that is not ready", func() bool { ep := get(); return show(ep.Subsets) == "10.42.0.5! : 8080" })

	begin := time.Now()
	p, _ = c.Client.CoreV1().Pods("default").Get(context.Background(), "web-0", metav1.GetOptions{})
	p.Status.Conditions[0].Status = corev1.ConditionTrue
	if _, err := c.Client.CoreV1().Pods("default").UpdateStatus(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("a ready address", func() bool { return show(get().Subsets) == "10.42.0.5 : 8080" })
	if d := time.Since(begin); d > 500*time.Millisecond {
		t.Errorf("readiness took %v to arrive: nothing may wait here", d)
	}
	if h := get().Subsets[0].Addresses[0].Hostname; h != "web-0" {
		t.Errorf("hostname %q", h)
	}
	if err := c.Client.CoreV1().Services("default").Delete(context.Background(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the Endpoints go with the Service", func() bool { return get() == nil })
}
