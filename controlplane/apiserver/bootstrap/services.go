package bootstrap

import (
	"context"
	"net"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const kubernetesName = "kubernetes"

// services makes the kubernetes Service, through which pods reach this server, and the cluster DNS Service. Neither has
// a selector: the first one's endpoints are kept here, the second's address is answered by every node itself.
func (b *Bootstrap) services(ctx context.Context) error {
	first := append(net.IP(nil), b.cfg.ServiceCIDR.IP...)
	first[len(first)-1]++
	tasks := []func(context.Context) error{
		b.service(corev1.Service{
			ObjectMeta: metav1.ObjectMeta{
				Name: kubernetesName, Namespace: metav1.NamespaceDefault,
				Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"},
			},
			Spec: corev1.ServiceSpec{
				ClusterIP: first.String(), SessionAffinity: corev1.ServiceAffinityNone, Type: corev1.ServiceTypeClusterIP,
				Ports: []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt(b.cfg.Port)}},
			},
		}),
	}
	if b.cfg.AdvertiseAddress.IsLoopback() {
		// Endpoints may not name a loopback address: pods would reach themselves.
		b.warnLoopback()
	} else {
		tasks = append(tasks, b.endpoints, b.endpointSlice)
	}
	if b.cfg.DNSAddress != nil {
		tasks = append(tasks, b.service(corev1.Service{
			ObjectMeta: metav1.ObjectMeta{
				Name: "kube-dns", Namespace: metav1.NamespaceSystem,
				Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
			},
			Spec: corev1.ServiceSpec{
				ClusterIP: b.cfg.DNSAddress.String(), Type: corev1.ServiceTypeClusterIP,
				Ports: []corev1.ServicePort{
					{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt(53)},
					{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53, TargetPort: intstr.FromInt(53)},
				},
			},
		}))
	}
	return all(ctx, tasks)
}

func (b *Bootstrap) service(want corev1.Service) func(context.Context) error {
	return func(ctx context.Context) error {
		api := b.cfg.Client.CoreV1().Services(want.Namespace)
		have, err := api.Get(ctx, want.Name, cached)
		if apierrors.IsNotFound(err) {
			_, err = api.Create(ctx, &want, metav1.CreateOptions{})
			return exists(err)
		}
		if err != nil || samePorts(have.Spec.Ports, want.Spec.Ports) && have.Spec.ClusterIP == want.Spec.ClusterIP {
			return err
		}
		if have.Spec.ClusterIP != want.Spec.ClusterIP {
			// The range was changed: an address can't be, so the Service is made anew.
			if err := api.Delete(ctx, want.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &have.UID}}); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
			_, err = api.Create(ctx, &want, metav1.CreateOptions{})
			return exists(err)
		}
		changed := have.DeepCopy()
		changed.Spec.Ports = want.Spec.Ports
		_, err = api.Update(ctx, changed, metav1.UpdateOptions{})
		return err
	}
}

func samePorts(have, want []corev1.ServicePort) bool {
	if len(have) != len(want) {
		return false
	}
	for i := range want {
		h, w := have[i], want[i]
		if h.Name != w.Name || h.Port != w.Port || h.Protocol != w.Protocol || h.TargetPort != w.TargetPort {
			return false
		}
	}
	return true
}

func (b *Bootstrap) endpoints(ctx context.Context) error {
	api := b.cfg.Client.CoreV1().Endpoints(metav1.NamespaceDefault)
	subsets := []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: b.cfg.AdvertiseAddress.String()}},
		Ports:     []corev1.EndpointPort{{Name: "https", Port: int32(b.cfg.Port), Protocol: corev1.ProtocolTCP}}, // a port
	}}
	have, err := api.Get(ctx, kubernetesName, cached)
	if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, &corev1.Endpoints{
			ObjectMeta: metav1.ObjectMeta{
				Name: kubernetesName, Namespace: metav1.NamespaceDefault,
				// The slice below is this Service's only one.
				Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"},
			}, Subsets: subsets,
		}, metav1.CreateOptions{})
		return exists(err)
	}
	if err != nil || equality.Semantic.DeepEqual(have.Subsets, subsets) {
		return err
	}
	have = have.DeepCopy()
	have.Subsets = subsets
	_, err = api.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

func (b *Bootstrap) endpointSlice(ctx context.Context) error {
	api := b.cfg.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	name, tcp, port, ready := "https", corev1.ProtocolTCP, int32(b.cfg.Port), true //nolint:gosec // a port
	family := discoveryv1.AddressTypeIPv4
	if b.cfg.AdvertiseAddress.To4() == nil {
		family = discoveryv1.AddressTypeIPv6
	}
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: kubernetesName, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelServiceName: kubernetesName},
		},
		AddressType: family,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{b.cfg.AdvertiseAddress.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}},
	}
	have, err := api.Get(ctx, kubernetesName, cached)
	if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
		return exists(err)
	}
	if err != nil {
		return err
	}
	if have.AddressType != want.AddressType {
		return api.Delete(ctx, kubernetesName, metav1.DeleteOptions{}) // the next round makes it anew
	}
	if equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) {
		return nil
	}
	have = have.DeepCopy()
	have.Endpoints, have.Ports = want.Endpoints, want.Ports
	_, err = api.Update(ctx, have, metav1.UpdateOptions{})
	return err
}
