package registry_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func service(name string, t corev1.ServiceType, ports ...corev1.ServicePort) *corev1.Service {
	if len(ports) == 0 {
		ports = []corev1.ServicePort{{Port: 80}}
	}
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: t, Ports: ports}}
}

func TestServiceAllocation(t *testing.T) {
	client, ns := namespace(t)
	ctx := t.Context()
	svcs := client.CoreV1().Services(ns)
	ips := client.NetworkingV1().IPAddresses()

	s, err := svcs.Create(ctx, service("a", corev1.ServiceTypeNodePort), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ip, port := s.Spec.ClusterIP, s.Spec.Ports[0].NodePort
	if !strings.HasPrefix(ip, "10.43.") || len(s.Spec.ClusterIPs) != 1 || port < 30000 || port > 32767 {
		t.Fatalf("allocated %q %v %d", ip, s.Spec.ClusterIPs, port)
	}
	if len(s.Spec.IPFamilies) != 1 || *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Errorf("families %v %v", s.Spec.IPFamilies, s.Spec.IPFamilyPolicy)
	}
	addr, err := ips.Get(ctx, ip, metav1.GetOptions{})
	if err != nil || addr.Spec.ParentRef.Name != "a" {
		t.Fatalf("the address object: %v, %v", addr, err)
	}

	clash := service("b", corev1.ServiceTypeClusterIP)
	clash.Spec.ClusterIP = ip
	if _, err := svcs.Create(ctx, clash, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("an address in use: %v", err)
	}
	clash = service("b", corev1.ServiceTypeNodePort, corev1.ServicePort{Port: 80, NodePort: port})
	if _, err := svcs.Create(ctx, clash, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("a node port in use: %v", err)
	}
	// What the refused one took (an address) is free again.
	all, err := ips.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all.Items {
		if a.Spec.ParentRef.Name == "b" {
			t.Errorf("left behind: %s", a.Name)
		}
	}

	// An update that leaves the allocated values out keeps them.
	again := service("a", corev1.ServiceTypeNodePort)
	again.ResourceVersion = s.ResourceVersion
	if s, err = svcs.Update(ctx, again, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if s.Spec.ClusterIP != ip || s.Spec.Ports[0].NodePort != port {
		t.Errorf("the update changed %s to %s, %d to %d", ip, s.Spec.ClusterIP, port, s.Spec.Ports[0].NodePort)
	}

	s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	if s, err = svcs.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if s.Spec.ClusterIP != "" || s.Spec.Ports[0].NodePort != 0 {
		t.Errorf("an ExternalName kept %q and %d", s.Spec.ClusterIP, s.Spec.Ports[0].NodePort)
	}
	if _, err := ips.Get(ctx, ip, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the address is still taken: %v", err)
	}
	if _, err := svcs.Create(ctx, service("c", corev1.ServiceTypeNodePort, corev1.ServicePort{Port: 80, NodePort: port}), metav1.CreateOptions{}); err != nil {
		t.Errorf("the node port is still taken: %v", err)
	}

	dry := service("d", corev1.ServiceTypeNodePort)
	s, err = svcs.Create(ctx, dry, metav1.CreateOptions{DryRun: []string{"All"}})
	if err != nil || s.Spec.ClusterIP == "" || s.Spec.Ports[0].NodePort == 0 {
		t.Fatalf("dry run: %+v, %v", s.Spec, err)
	}
	if _, err := ips.Get(ctx, s.Spec.ClusterIP, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run took an address: %v", err)
	}
}

func TestServicePortsOfOneNumberShareANodePort(t *testing.T) {
	client, ns := namespace(t)
	s, err := client.CoreV1().Services(ns).Create(t.Context(), service("dns", corev1.ServiceTypeNodePort,
		corev1.ServicePort{Name: "udp", Port: 53, Protocol: corev1.ProtocolUDP},
		corev1.ServicePort{Name: "tcp", Port: 53, Protocol: corev1.ProtocolTCP},
		corev1.ServicePort{Name: "metrics", Port: 9153}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := s.Spec.Ports
	if p[0].NodePort != p[1].NodePort || p[2].NodePort == p[0].NodePort || p[2].NodePort == 0 {
		t.Errorf("node ports %d %d %d", p[0].NodePort, p[1].NodePort, p[2].NodePort)
	}
}

func TestDefaultServiceRange(t *testing.T) {
	client, _ := namespace(t)
	c, err := client.NetworkingV1().ServiceCIDRs().Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Status.Conditions) != 1 || c.Status.Conditions[0].Status != metav1.ConditionTrue {
		t.Errorf("conditions %v", c.Status.Conditions)
	}
}
