package apiserver

import (
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	admissionmetrics "k8s.io/apiserver/pkg/admission/metrics"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	plugins "github.com/mote-edge/mote/controlplane/admission"
	"github.com/mote-edge/mote/controlplane/quota"
)

// admission puts the plugins in order and gives them what they ask for.
func (s *Server) admission(c *genericapiserver.Config, transport *http.Transport, resolver webhook.ServiceResolver) error {
	all := admission.NewPlugins()
	plugins.RegisterAll(all)
	off := sets.New(s.cfg.DisablePlugins...)
	if unknown := off.Difference(sets.New(all.Registered()...)); unknown.Len() > 0 {
		return fmt.Errorf("--disable-admission-plugins: %v are unknown; the plugins are %v", sets.List(unknown), all.Registered())
	}
	var names []string
	for _, n := range plugins.Order() {
		if !off.Has(n) {
			names = append(names, n)
		}
	}
	none, err := admission.ReadAdmissionConfiguration(names, "", nil)
	if err != nil {
		return fmt.Errorf("read the admission configuration: %w", err)
	}
	dynamicClient, err := dynamic.NewForConfig(s.loopback)
	if err != nil {
		return fmt.Errorf("make a dynamic client: %w", err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.client.Discovery()))
	chain, err := all.NewFromPlugins(names, none, admission.PluginInitializers{
		initializer.NewAPIServerIDInitializer(c.APIServerID),
		initializer.New(s.client, dynamicClient, s.informers, c.Authorization.Authorizer, c.FeatureGate, c.EffectiveVersion, c.DrainedNotify(), mapper),
		quotaInitializer{},
		limitRangeInitializer{&s.stores},
		webhookinit.NewPluginInitializer(webhook.NewDefaultAuthenticationInfoResolverWrapper(transport, nil, s.loopback, c.TracerProvider), resolver),
	}, admission.Decorators{admission.DecoratorFunc(admissionmetrics.WithControllerMetrics)})
	if err != nil {
		return fmt.Errorf("assemble admission: %w", err)
	}
	c.AdmissionControl = admissionmetrics.WithStepMetrics(chain)
	return nil
}

// quotaInitializer tells the quota plugin what each kind of object counts for.
type quotaInitializer struct{}

func (quotaInitializer) Initialize(p admission.Interface) {
	if w, ok := p.(initializer.WantsQuotaConfiguration); ok {
		w.SetQuotaConfiguration(quota.NewConfiguration(nil))
	}
}

// limitRangeInitializer lets the limit ranger look into the watch cache.
type limitRangeInitializer struct{ stores *stores }

func (i limitRangeInitializer) Initialize(p admission.Interface) {
	if w, ok := p.(plugins.WantsLimitRanges); ok {
		w.SetLimitRanges(i.stores.limitRangesOf)
	}
}
