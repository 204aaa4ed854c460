package core

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// podLocation reads "pod", "pod:port" or "scheme:pod:port". Without a port it
// is the first one that the pod declares.
func podLocation(ctx context.Context, pods rest.Getter, id string) (*url.URL, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
	}
	obj, err := pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	p := obj.(*corev1.Pod)
	if port == "" {
		for _, c := range p.Spec.Containers {
			if len(c.Ports) > 0 {
				port = strconv.Itoa(int(c.Ports[0].ContainerPort))
				break
			}
		}
	}
	if len(p.Status.PodIPs) == 0 {
		return nil, apierrors.NewBadRequest("address not allowed")
	}
	host, err := proxyable(p.Status.PodIPs[0].IP, port)
	return &url.URL{Scheme: scheme, Host: host}, err
}

// proxyable refuses addresses that lead back to the control plane's own machine.
func proxyable(ip, port string) (string, error) {
	parsed := net.ParseIP(ip)
	if parsed == nil || !parsed.IsGlobalUnicast() {
		return "", apierrors.NewBadRequest("address not allowed")
	}
	if port != "" {
		return net.JoinHostPort(ip, port), nil
	}
	if parsed.To4() == nil {
		return "[" + ip + "]", nil
	}
	return ip, nil
}

// nodeProxy is nodes/proxy: the agent itself, or with another port whatever
// listens there.
func nodeProxy(c *resource.Config) rest.Storage {
	return &connecter[*corev1.NodeProxyOptions]{
		newOptions: func() *corev1.NodeProxyOptions { return &corev1.NodeProxyOptions{} }, methods: anyMethod, path: true,
		handle: func(ctx context.Context, id string, o *corev1.NodeProxyOptions, r rest.Responder) (http.Handler, error) {
			scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
			if !ok {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", id))
			}
			if c.Kubelets == nil {
				return nil, apierrors.NewInternalError(errNoKubelets)
			}
			location, transport, err := c.Kubelets.Connection(ctx, name)
			if err != nil {
				return nil, err
			}
			if _, err := proxyable(location.Hostname(), ""); err != nil && net.ParseIP(location.Hostname()) != nil {
				return nil, err
			}
			if port != "" && port != location.Port() {
				location = &url.URL{Scheme: scheme, Host: net.JoinHostPort(location.Hostname(), port)}
				transport = proxyTransport(c)
			}
			return proxyTo(location, o.Path, transport, r), nil
		},
	}
}

// serviceProxy is services/proxy: one of the Service's ready pods.
func serviceProxy(c *resource.Config, services, pods rest.Getter, slices rest.Lister) rest.Storage {
	return &connecter[*corev1.ServiceProxyOptions]{
		newOptions: func() *corev1.ServiceProxyOptions { return &corev1.ServiceProxyOptions{} }, methods: anyMethod, path: true,
		handle: func(ctx context.Context, id string, o *corev1.ServiceProxyOptions, r rest.Responder) (http.Handler, error) {
			scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
			if !ok {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", id))
			}
			port, err := portName(ctx, services, name, port)
			if err != nil {
				return nil, err
			}
			list, err := slices.List(ctx, &metainternalversion.ListOptions{
				LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}),
			})
			if err != nil {
				return nil, apierrors.NewInternalError(err)
			}
			host, err := readyEndpoint(ctx, pods, list.(*discoveryv1.EndpointSliceList).Items, name, port)
			if err != nil {
				return nil, err
			}
			return proxyTo(&url.URL{Scheme: scheme, Host: host}, o.Path, proxyTransport(c), r), nil
		},
	}
}

// portName turns a port's number into its name, which is what slices know it by.
func portName(ctx context.Context, services rest.Getter, name, port string) (string, error) {
	n, err := strconv.ParseInt(port, 10, 64)
	if err != nil {
		return port, nil
	}
	obj, err := services.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	for _, p := range obj.(*corev1.Service).Spec.Ports {
		if int64(p.Port) == n {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", n, name))
}

// readyEndpoint picks one at random. Only addresses that really are pods of the
// namespace count: anybody may write a slice with any address in it.
func readyEndpoint(ctx context.Context, pods rest.Getter, slices []discoveryv1.EndpointSlice, name, port string) (string, error) {
	type candidate struct {
		endpoint discoveryv1.Endpoint
		port     int32
	}
	var all []candidate
	for _, s := range slices {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, p := range s.Ports {
			if ptr.Deref(p.Name, "") != port || p.Port == nil {
				continue
			}
			for _, e := range s.Endpoints {
				if ptr.Deref(e.Conditions.Ready, true) && len(e.Addresses) > 0 {
					all = append(all, candidate{e, *p.Port})
				}
			}
		}
	}
	if len(all) == 0 {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
	}
	namespace := genericapirequest.NamespaceValue(ctx)
	for _, i := range rand.Perm(len(all)) {
		ref := all[i].endpoint.TargetRef
		if ref == nil || ref.Namespace != namespace {
			continue
		}
		obj, err := pods.Get(ctx, ref.Name, &metav1.GetOptions{})
		if err != nil {
			continue
		}
		for _, ip := range obj.(*corev1.Pod).Status.PodIPs {
			if ip.IP == all[i].endpoint.Addresses[0] {
				return net.JoinHostPort(ip.IP, strconv.Itoa(int(all[i].port))), nil
			}
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
}
