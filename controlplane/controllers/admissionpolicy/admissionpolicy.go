// Package admissionpolicy type-checks the expressions of ValidatingAdmissionPolicies against the kinds that they match,
// and writes what it finds into their status as warnings.
//
// Schemas and the mapping of resources to kinds are fetched when there is a policy to check, and let go afterwards.
//
// Reads: ValidatingAdmissionPolicies, discovery, OpenAPI v3. Writes: their status (observedGeneration, typeChecking).
package admissionpolicy

import (
	"context"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	applyv1 "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/admissionregistration/v1"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

// Config is what the controller is given.
type Config struct {
	Client    kubernetes.Interface
	Discovery discovery.DiscoveryInterface
	Informers informers.SharedInformerFactory
}

// Controller checks each generation of a policy once.
type Controller struct {
	cfg      Config
	policies listers.ValidatingAdmissionPolicyLister
	queue    *keyqueue.Queue[string]
	synced   cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	policies := cfg.Informers.Admissionregistration().V1().ValidatingAdmissionPolicies()
	c := &Controller{cfg: cfg, policies: policies.Lister()}
	c.queue = keyqueue.New("admissionpolicy", 1, c.reconcile)
	var err error
	c.synced, err = keyqueue.WatchChanges(policies.Informer(), func(_, p *admissionregistrationv1.ValidatingAdmissionPolicy, gone bool) {
		if !gone && p.Generation > p.Status.ObservedGeneration {
			c.queue.Add(p.Name)
		}
	})
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error { return c.queue.RunWhenSynced(ctx, c.synced) }

func (c *Controller) reconcile(ctx context.Context, name string) error {
	p, err := c.policies.Get(name)
	if apierrors.IsNotFound(err) || (err == nil && p.Generation <= p.Status.ObservedGeneration) {
		return nil
	}
	if err != nil {
		return err
	}
	groups, err := restmapper.GetAPIGroupResources(c.cfg.Discovery)
	if err != nil && len(groups) == 0 {
		return fmt.Errorf("validating admission policy %s: discovery: %w", name, err)
	}
	checker := &validating.TypeChecker{
		SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: c.cfg.Discovery},
		RestMapper:     restmapper.NewDiscoveryRESTMapper(groups),
	}
	checked := applyv1.TypeChecking()
	for _, w := range checker.Check(p) {
		checked.WithExpressionWarnings(applyv1.ExpressionWarning().WithFieldRef(w.FieldRef).WithWarning(w.Warning))
	}
	apply := applyv1.ValidatingAdmissionPolicy(name).WithStatus(applyv1.ValidatingAdmissionPolicyStatus().
		WithObservedGeneration(p.Generation).WithTypeChecking(checked))
	_, err = c.cfg.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies().ApplyStatus(ctx, apply, metav1.ApplyOptions{FieldManager: "validatingadmissionpolicy-status", Force: true})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("status of validating admission policy %s: %w", name, err)
	}
	return nil
}
