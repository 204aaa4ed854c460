package apiserver

import (
	"context"
	"log/slog"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"
)

// crdRegistration tells the registration which group versions custom resource definitions serve.
type crdRegistration struct {
	crds  apiextensionsinformers.CustomResourceDefinitionInformer
	to    autoregister.AutoAPIServiceRegistration
	dirty chan struct{}
	known map[schema.GroupVersion]bool
}

func newCRDRegistration(crds apiextensionsinformers.CustomResourceDefinitionInformer, to autoregister.AutoAPIServiceRegistration) *crdRegistration {
	r := &crdRegistration{crds: crds, to: to, dirty: make(chan struct{}, 1), known: map[schema.GroupVersion]bool{}}
	mark := func() {
		select {
		case r.dirty <- struct{}{}:
		default:
		}
	}
	_, _ = crds.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { mark() }, UpdateFunc: func(_, _ any) { mark() }, DeleteFunc: func(any) { mark() },
	}) // fails only on a stopped informer
	return r
}

// Run does one pass and goes on in the background. It says false when the context ended before.
func (r *crdRegistration) Run(ctx context.Context) bool {
	if !cache.WaitForCacheSync(ctx.Done(), r.crds.Informer().HasSynced) {
		return false
	}
	r.sync(ctx)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.dirty:
				r.sync(ctx)
			}
		}
	}()
	return true
}

func (r *crdRegistration) sync(ctx context.Context) {
	list, err := r.crds.Lister().List(labels.Everything())
	if err != nil {
		slog.ErrorContext(ctx, "custom resource definitions not listed", "err", err)
		return
	}
	now := servedBy(list)
	for gv := range now {
		if !r.known[gv] {
			r.to.AddAPIServiceToSync(customService(gv))
		}
	}
	for gv := range r.known {
		if !now[gv] {
			r.to.RemoveAPIServiceToSync(gv.Version + "." + gv.Group)
		}
	}
	r.known = now
}

func servedBy(crds []*apiextensionsv1.CustomResourceDefinition) map[schema.GroupVersion]bool {
	gvs := map[schema.GroupVersion]bool{}
	for _, crd := range crds {
		for _, v := range crd.Spec.Versions {
			if v.Served {
				gvs[schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}] = true
			}
		}
	}
	return gvs
}

func customService(gv schema.GroupVersion) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		// Built-in groups win over these; versions are ordered by their names.
		Spec: apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: 1000, VersionPriority: 100},
	}
}
