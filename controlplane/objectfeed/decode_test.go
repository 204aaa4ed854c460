package objectfeed

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

func TestDecode(t *testing.T) {
	yes := true
	deleted := metav1.NewTime(time.Unix(1000, 0))
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "p", Namespace: "ns", UID: "u", ResourceVersion: "7", Generation: 3, DeletionTimestamp: &deleted,
			Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}, Finalizers: []string{"x/y", "orphan"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", UID: "o", Controller: &yes, BlockOwnerDeletion: &yes}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:spec":{}}`)}}},
		},
		Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c"}}},
	}
	var proto bytes.Buffer
	if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(pod, &proto); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string][]byte{"protobuf": proto.Bytes(), "JSON": text} {
		gvk, m, err := decode(value)
		if err != nil {
			t.Fatal(name, err)
		}
		want := &metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", DeletionTimestamp: m.DeletionTimestamp, Finalizers: pod.Finalizers, OwnerReferences: pod.OwnerReferences}
		if gvk != corev1.SchemeGroupVersion.WithKind("Pod") || m.DeletionTimestamp == nil || !equality.Semantic.DeepEqual(m, want) {
			t.Errorf("%s: %v %+v", name, gvk, m)
		}
	}
	for name, value := range map[string][]byte{"empty": nil, "encrypted": []byte("k8s:enc:aescbc:v1:"), "cut short": proto.Bytes()[:proto.Len()-20], "bad JSON": []byte("{")} {
		if _, _, err := decode(value); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("k8s\x00\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x04\x0a\x02\x0a\x00"))
	f.Add([]byte(`{"kind":"X","metadata":{"uid":"u"}}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _, _ = decode(b) })
}
