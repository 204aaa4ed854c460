package bootstrap

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// cached allows an answer from the server's watch cache.
var cached = metav1.GetOptions{ResourceVersion: "0"}

var systemNamespaces = []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, metav1.NamespaceDefault}

func (b *Bootstrap) namespaces(ctx context.Context) error {
	var tasks []func(context.Context) error
	for _, name := range systemNamespaces {
		tasks = append(tasks, func(ctx context.Context) error {
			_, err := b.cfg.Client.CoreV1().Namespaces().Get(ctx, name, cached)
			if !apierrors.IsNotFound(err) {
				return err
			}
			_, err = b.cfg.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			return exists(err)
		})
	}
	return all(ctx, tasks)
}

// priorityClasses are the two that the system's own pods use (values: the Kubernetes documentation, "Guaranteed
// Scheduling For Critical Add-On Pods").
func (b *Bootstrap) priorityClasses(ctx context.Context) error {
	var tasks []func(context.Context) error
	for _, c := range []schedulingv1.PriorityClass{
		{
			ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: 2000001000,
			Description: "Used for system critical pods that must not be moved from their current node.",
		},
		{
			ObjectMeta: metav1.ObjectMeta{Name: "system-cluster-critical"}, Value: 2000000000,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		},
	} {
		tasks = append(tasks, func(ctx context.Context) error {
			_, err := b.cfg.Client.SchedulingV1().PriorityClasses().Get(ctx, c.Name, metav1.GetOptions{})
			if !apierrors.IsNotFound(err) {
				return err
			}
			_, err = b.cfg.Client.SchedulingV1().PriorityClasses().Create(ctx, &c, metav1.CreateOptions{})
			return exists(err)
		})
	}
	tasks = append(tasks, b.serviceCIDR)
	return all(ctx, tasks)
}

// serviceCIDR shows the range of the Services' addresses.
func (b *Bootstrap) serviceCIDR(ctx context.Context) error {
	api := b.cfg.Client.NetworkingV1().ServiceCIDRs()
	have, err := api.Get(ctx, "kubernetes", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		have, err = api.Create(ctx, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{b.cfg.ServiceCIDR.String()}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return exists(err)
	}
	for _, c := range have.Status.Conditions {
		if c.Type == networkingv1.ServiceCIDRConditionReady && c.Status == metav1.ConditionTrue {
			return nil
		}
	}
	have.Status.Conditions = []metav1.Condition{{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Message: "Kubernetes Service CIDR is ready",
	}}
	_, err = api.UpdateStatus(ctx, have, metav1.UpdateOptions{})
	return err
}

const authenticationMapName = "extension-apiserver-authentication"

// authenticationMap tells aggregated API servers whose certificates and headers to trust.
func (b *Bootstrap) authenticationMap(ctx context.Context) error {
	list := func(s ...string) string {
		out, _ := json.Marshal(s) // a list of strings can always be encoded
		return string(out)
	}
	want := map[string]string{
		"client-ca-file":                     string(b.cfg.ClientCA),
		"requestheader-client-ca-file":       string(b.cfg.FrontProxyCA),
		"requestheader-allowed-names":        list(b.cfg.FrontProxyNames...),
		"requestheader-username-headers":     list("X-Remote-User"),
		"requestheader-uid-headers":          list("X-Remote-Uid"),
		"requestheader-group-headers":        list("X-Remote-Group"),
		"requestheader-extra-headers-prefix": list("X-Remote-Extra-"),
	}
	api := b.cfg.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	return retry(ctx, func(ctx context.Context) error {
		have, err := api.Get(ctx, authenticationMapName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = api.Create(ctx, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: authenticationMapName, Namespace: metav1.NamespaceSystem}, Data: want,
			}, metav1.CreateOptions{})
			return err
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", authenticationMapName, err)
		}
		changed := false
		for k, v := range want {
			if have.Data[k] != v {
				changed = true
				if have.Data == nil {
					have.Data = map[string]string{}
				}
				have.Data[k] = v
			}
		}
		if !changed {
			return nil
		}
		_, err = api.Update(ctx, have, metav1.UpdateOptions{})
		return err
	})
}
