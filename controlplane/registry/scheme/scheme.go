// Package scheme knows every built-in API kind that Mote serves: the published
// k8s.io/api types, registered under their own version and, so that they serve
// as the hub version too, under their group's internal version.
//
// Only three kinds have a real conversion: HorizontalPodAutoscaler v1 (stored
// as v2), events.k8s.io Event (stored as core Event) and url.Values into the
// option kinds of the connect subresources.
//
// Reads: nothing.
// Writes: nothing; the scheme is built once, on first use, and never changes.
package scheme

import (
	"reflect"
	"strings"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	migrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/mote-edge/mote/controlplane/registry/defaults"
)

// Scheme returns the one scheme of the built-in API.
func Scheme() *runtime.Scheme { return built().scheme }

// Codecs returns the codec factory over Scheme.
func Codecs() serializer.CodecFactory { return built().codecs }

// ParameterCodec turns query parameters into option kinds and back.
func ParameterCodec() runtime.ParameterCodec { return built().parameters }

type bundle struct {
	scheme     *runtime.Scheme
	codecs     serializer.CodecFactory
	parameters runtime.ParameterCodec
}

// built is lazy because the same binary is also a command line that rarely
// needs the scheme.
var built = sync.OnceValue(func() bundle {
	s := New()
	return bundle{scheme: s, codecs: serializer.NewCodecFactory(s), parameters: runtime.NewParameterCodec(s)}
})

// groups lists what is registered: how to add a group version, and whether its
// types are the group's hub.
var groups = []struct {
	gv  schema.GroupVersion
	add func(*runtime.Scheme) error
	hub bool
}{
	{corev1.SchemeGroupVersion, corev1.AddToScheme, true},
	{appsv1.SchemeGroupVersion, appsv1.AddToScheme, true},
	{batchv1.SchemeGroupVersion, batchv1.AddToScheme, true},
	{autoscalingv2.SchemeGroupVersion, autoscalingv2.AddToScheme, true},
	{autoscalingv1.SchemeGroupVersion, autoscalingv1.AddToScheme, false},
	{policyv1.SchemeGroupVersion, policyv1.AddToScheme, true},
	{networkingv1.SchemeGroupVersion, networkingv1.AddToScheme, true},
	{discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme, true},
	{coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme, true},
	{eventsv1.SchemeGroupVersion, eventsv1.AddToScheme, false},
	{rbacv1.SchemeGroupVersion, rbacv1.AddToScheme, true},
	{storagev1.SchemeGroupVersion, storagev1.AddToScheme, true},
	{schedulingv1.SchemeGroupVersion, schedulingv1.AddToScheme, true},
	{nodev1.SchemeGroupVersion, nodev1.AddToScheme, true},
	{certificatesv1.SchemeGroupVersion, certificatesv1.AddToScheme, true},
	{admissionregistrationv1.SchemeGroupVersion, admissionregistrationv1.AddToScheme, true},
	{flowcontrolv1.SchemeGroupVersion, flowcontrolv1.AddToScheme, true},
	{migrationv1.SchemeGroupVersion, migrationv1.AddToScheme, true},
	{resourcev1.SchemeGroupVersion, resourcev1.AddToScheme, true},
	{authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme, true},
	{authorizationv1.SchemeGroupVersion, authorizationv1.AddToScheme, true},
}

// New builds a fresh scheme. Programs want Scheme; tests that add to it want
// their own.
func New() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, g := range groups {
		utilruntime.Must(g.add(s))
		if g.hub {
			registerHub(s, g.gv)
		}
	}
	internal := func(group string) schema.GroupVersion {
		return schema.GroupVersion{Group: group, Version: runtime.APIVersionInternal}
	}
	// Scale has no v2, so v1 is its hub.
	s.AddKnownTypes(internal(autoscalingv1.GroupName), &autoscalingv1.Scale{})
	// Both event groups share one storage, and core's type is the hub.
	s.AddKnownTypes(internal(eventsv1.GroupName), &corev1.Event{}, &corev1.EventList{})
	utilruntime.Must(s.SetVersionPriority(autoscalingv2.SchemeGroupVersion, autoscalingv1.SchemeGroupVersion))
	for _, g := range groups {
		if g.gv.Group != autoscalingv1.GroupName {
			utilruntime.Must(s.SetVersionPriority(g.gv))
		}
	}
	utilruntime.Must(addEventConversions(s))
	utilruntime.Must(addAutoscalingConversions(s))
	utilruntime.Must(addOldEviction(s))
	utilruntime.Must(addParameterConversions(s))
	utilruntime.Must(addFieldLabels(s))
	utilruntime.Must(defaults.Register(s))
	return s
}

// registerHub registers the API types of gv under the group's internal version
// as well. Meta types (ListOptions and the like), which every version carries,
// are left out: they live in another package.
func registerHub(s *runtime.Scheme, gv schema.GroupVersion) {
	internal := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
	for kind, t := range s.KnownTypes(gv) {
		if !strings.HasPrefix(t.PkgPath(), "k8s.io/api/") {
			continue
		}
		s.AddKnownTypeWithName(internal.WithKind(kind), reflect.New(t).Interface().(runtime.Object))
	}
}
