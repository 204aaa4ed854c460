package openapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/emicklei/go-restful/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/mote-edge/mote/controlplane/registry"
)

func TestEveryDefinitionDecodes(t *testing.T) {
	defs, err := definitions(func(name string) spec.Ref { return spec.MustCreateRef("#/components/schemas/" + name) })
	if err != nil {
		t.Fatal(err)
	}
	if len(defs) < 600 {
		t.Errorf("%d definitions, want all", len(defs))
	}
	pod := defs["io.k8s.api.core.v1.Pod"].Schema
	ref := pod.Properties["spec"].Ref
	if ref.String() != "#/components/schemas/io.k8s.api.core.v1.PodSpec" {
		t.Errorf("the pod's spec is %q", ref.String())
	}
	for name, d := range defs {
		for _, dep := range d.Dependencies {
			if _, ok := defs[dep]; !ok {
				t.Errorf("%s refers to %s, which is missing", name, dep)
			}
		}
	}
}

// Every kind that is served and stored must have merge rules, or its writes have no field owners.
func TestEveryKindHasMergeRules(t *testing.T) {
	s := registry.Scheme()
	c := NewConverter(s)
	for gvk, typ := range s.AllKnownTypes() {
		if _, ok := typ.FieldByName("ObjectMeta"); !ok || gvk.Version == runtime.APIVersionInternal {
			continue
		}
		if gvk.Group == "policy" && gvk.Version == "v1beta1" {
			continue // a body of pods/eviction alone: nothing merges it
		}
		if _, err := c.parseable(gvk); err != nil {
			t.Error(err)
		}
	}
}

// The library's converter, from client-go's copy of the schema, is the yardstick.
func TestConverterAgreesWithLibrary(t *testing.T) {
	ours, theirs := NewConverter(registry.Scheme()), applyconfigurations.NewTypeConverter(scheme.Scheme)
	one := int32(1)
	for _, o := range []runtime.Object{
		&appsv1.Deployment{
			TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
			ObjectMeta: metav1.ObjectMeta{Name: "d", Labels: map[string]string{"a": "b"}},
			Spec: appsv1.DeploymentSpec{Replicas: &one, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				Containers:  []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 80}}, Env: []corev1.EnvVar{{Name: "e"}}}},
				Tolerations: []corev1.Toleration{{Key: "k"}},
			}}},
		},
		&corev1.Service{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
			Spec:     corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}, {Port: 443, Protocol: "TCP"}}},
		},
		&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Data: map[string]string{"x": "y"}},
	} {
		a, err := ours.ObjectToTyped(o, typed.AllowDuplicates) // unvalidated, see there
		if err != nil {
			t.Fatal(err)
		}
		b, err := theirs.ObjectToTyped(o)
		if err != nil {
			t.Fatal(err)
		}
		setA, err := a.ToFieldSet()
		if err != nil {
			t.Fatal(err)
		}
		setB, err := b.ToFieldSet()
		if err != nil {
			t.Fatal(err)
		}
		if !setA.Equals(setB) {
			t.Errorf("%T: fields %v, the library's %v", o, setA, setB)
		}
	}
	twice := &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}, {Port: 80}}}}
	if _, err := ours.ObjectToTyped(twice); err == nil {
		t.Error("duplicates are accepted where they aren't allowed")
	}
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "p"}, "spec": map[string]any{"wrong": 1}}}
	for _, opts := range [][]typed.ValidationOptions{nil, {typed.AllowDuplicates}} {
		if _, err := ours.ObjectToTyped(u, opts...); err == nil {
			t.Errorf("an unknown field is accepted with %v", opts)
		}
	}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: "none", Version: "v1", Kind: "None"})
	if _, err := ours.ObjectToTyped(u); err == nil {
		t.Error("an unknown kind is accepted")
	}
}

var _ managedfields.TypeConverter = (*Converter)(nil)

func TestOneDocumentAtATime(t *testing.T) {
	var c cache
	built := 0
	get := func(key string, alone bool) {
		if _, err := c.get(key, alone, func() ([]byte, error) { built++; return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	get("a", false)
	get("a", false)
	get("b", false)
	if built != 2 || len(c.entries) != 2 {
		t.Errorf("built %d, kept %d; want 2 and 2", built, len(c.entries))
	}
	get("c", true)
	if len(c.entries) != 1 {
		t.Errorf("kept %d, want the newest alone", len(c.entries))
	}
}

func noServices() []*restful.WebService { return nil }

func TestListOfNothing(t *testing.T) {
	w := httptest.NewRecorder()
	NewV3(noServices, registry.Scheme()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/openapi/v3", nil))
	var got struct{ Paths map[string]any }
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK || got.Paths == nil {
		t.Errorf("%d %s %v", w.Code, w.Body, err)
	}
}
