package apiserver

import (
	"slices"
	"strings"

	apiextensionsinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"
)

// groupOrder is the order in which discovery lists the groups, and so what an ambiguous short name means to kubectl.
// The core group comes first; upstream spaces the priorities like this too.
var groupOrder = []string{
	"", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "autoscaling", "batch", "certificates.k8s.io",
	"networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io", "admissionregistration.k8s.io",
	"apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io", "discovery.k8s.io", "resource.k8s.io",
	"flowcontrol.apiserver.k8s.io",
}

func groupPriority(group string) int32 {
	i := slices.Index(groupOrder, group)
	if i < 0 {
		return 15000
	}
	return int32(18000 - 100*i)
}

// versionPriority puts v2 before v1.
func versionPriority(version string) int32 {
	if version == "v1" {
		return 15
	}
	return 30
}

func localService(gv schema.GroupVersion) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version,
			GroupPriorityMinimum: groupPriority(gv.Group), VersionPriority: versionPriority(gv.Version),
		},
	}
}

// register keeps an APIService object for every group version that the chain itself serves: the built-in ones and those
// of custom resource definitions.
func (s *Server) register(a *aggregator.APIAggregator, next genericapiserver.DelegationTarget, crds apiextensionsinformers.CustomResourceDefinitionInformer) error {
	client, err := apiregistrationclient.NewForConfig(s.loopback)
	if err != nil {
		return err
	}
	auto := autoregister.NewAutoRegisterController(a.APIRegistrationInformers.Apiregistration().V1().APIServices(), client)
	for _, gv := range localVersions(next.ListedPaths()) {
		auto.AddAPIServiceToSyncOnStart(localService(gv))
		a.GenericAPIServer.AggregatedDiscoveryGroupManager.SetGroupVersionPriority(metav1.GroupVersion(gv), int(groupPriority(gv.Group)), int(versionPriority(gv.Version)))
	}
	custom := newCRDRegistration(crds, auto)
	return a.GenericAPIServer.AddPostStartHook("api-registration", func(hook genericapiserver.PostStartHookContext) error {
		go func() {
			if custom.Run(hook) { // first, lest services of definitions that exist be taken for left-overs
				auto.Run(1, hook.Done())
			}
		}()
		return nil
	})
}

func localVersions(paths []string) []schema.GroupVersion {
	var gvs []schema.GroupVersion
	for _, p := range paths {
		parts := strings.Split(strings.TrimPrefix(p, "/"), "/")
		switch {
		case p == "/api/v1":
			gvs = append(gvs, schema.GroupVersion{Version: "v1"})
		case len(parts) == 3 && parts[0] == "apis":
			gvs = append(gvs, schema.GroupVersion{Group: parts[1], Version: parts[2]})
		}
	}
	return gvs
}
