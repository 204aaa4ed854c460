package nodeauthz

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/mote-edge/mote/controlplane/apiserver/rbac"
)

// world is an Objects with one node's pods; late ones are in the datastore and not yet in the cache.
type world struct{ pods, late []*corev1.Pod }

func (w world) PodsOf(_ context.Context, node string, fresh bool) ([]*corev1.Pod, error) {
	if node != "n1" {
		return nil, nil
	}
	if fresh {
		return append(w.pods, w.late...), nil
	}
	return w.pods, nil
}

func (w world) Volume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	if name != "pv" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumes"}, name)
	}
	return &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "claim"}}}, nil
}

func (w world) Attachment(_ context.Context, name string) (*storagev1.VolumeAttachment, error) {
	return &storagev1.VolumeAttachment{Spec: storagev1.VolumeAttachmentSpec{NodeName: name}}, nil
}

func pod() *corev1.Pod {
	ref := corev1.LocalObjectReference{Name: "pull"}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"},
		Spec: corev1.PodSpec{
			ServiceAccountName: "sa", ResourceClaims: []corev1.PodResourceClaim{{Name: "d", ResourceClaimName: new("device")}}, ImagePullSecrets: []corev1.LocalObjectReference{ref},
			InitContainers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "init-cm"}}}}}},
			Containers: []corev1.Container{{Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{
				SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "env-secret"}},
			}}}}},
			Volumes: []corev1.Volume{
				{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "projected-cm"}}},
				}}}},
				{Name: "c", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
				{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			},
		},
		Status: corev1.PodStatus{ExtendedResourceClaimStatus: &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "extended"}},
	}
}

func TestAuthorize(t *testing.T) {
	rules, err := rbac.NodeRules()
	if err != nil {
		t.Fatal(err)
	}
	late := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "late"},
		Spec:       corev1.PodSpec{Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "late-secret"}}}}},
	}
	z := New(world{pods: []*corev1.Pod{pod()}, late: []*corev1.Pod{late}}, rules)
	selector := func(field, value string) fields.Requirements {
		return fields.OneTermEqualSelector(field, value).Requirements()
	}
	type a = authorizer.AttributesRecord
	for _, tc := range []struct {
		name string
		a    a
		want bool
	}{
		{"secret in env", a{Verb: "get", Resource: "secrets", Namespace: "ns", Name: "env-secret"}, true},
		{"pull secret", a{Verb: "watch", Resource: "secrets", Namespace: "ns", Name: "pull"}, true},
		{"secret of a pod the cache lacks", a{Verb: "get", Resource: "secrets", Namespace: "ns", Name: "late-secret"}, true},
		{"other secret", a{Verb: "get", Resource: "secrets", Namespace: "ns", Name: "x"}, false},
		{"namesake elsewhere", a{Verb: "get", Resource: "secrets", Namespace: "other", Name: "pull"}, false},
		{"all secrets", a{Verb: "list", Resource: "secrets", Namespace: "ns"}, false},
		{"write a secret", a{Verb: "update", Resource: "secrets", Namespace: "ns", Name: "pull"}, false},
		{"config of an init container", a{Verb: "get", Resource: "configmaps", Namespace: "ns", Name: "init-cm"}, true},
		{"projected config", a{Verb: "get", Resource: "configmaps", Namespace: "ns", Name: "projected-cm"}, true},
		{"claim", a{Verb: "get", Resource: "persistentvolumeclaims", Namespace: "ns", Name: "claim"}, true},
		{"claim of an ephemeral volume", a{Verb: "get", Resource: "persistentvolumeclaims", Namespace: "ns", Name: "p-e"}, true},
		{"volume of a claim", a{Verb: "get", Resource: "persistentvolumes", Name: "pv"}, true},
		{"unknown volume", a{Verb: "get", Resource: "persistentvolumes", Name: "x"}, false},
		{"resource claim", a{Verb: "get", APIGroup: "resource.k8s.io", Resource: "resourceclaims", Namespace: "ns", Name: "device"}, true},
		{"resource claim of extended resources", a{Verb: "get", APIGroup: "resource.k8s.io", Resource: "resourceclaims", Namespace: "ns", Name: "extended"}, true},
		{"another resource claim", a{Verb: "get", APIGroup: "resource.k8s.io", Resource: "resourceclaims", Namespace: "ns", Name: "x"}, false},
		{"token of its pod's account", a{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: "ns", Name: "sa"}, true},
		{"token of another account", a{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: "ns", Name: "admin"}, false},
		{"itself", a{Verb: "patch", Resource: "nodes", Subresource: "status", Name: "n1"}, true},
		{"another node", a{Verb: "patch", Resource: "nodes", Subresource: "status", Name: "n2"}, false},
		{"itself by selector", a{Verb: "watch", Resource: "nodes", FieldSelectorRequirements: selector("metadata.name", "n1")}, true},
		{"all nodes", a{Verb: "watch", Resource: "nodes"}, false},
		{"its pods", a{Verb: "watch", Resource: "pods", FieldSelectorRequirements: selector("spec.nodeName", "n1")}, true},
		{"another's pods", a{Verb: "watch", Resource: "pods", FieldSelectorRequirements: selector("spec.nodeName", "n2")}, false},
		{"pod status", a{Verb: "patch", Resource: "pods", Subresource: "status", Namespace: "ns", Name: "p"}, true},
		{"its lease", a{Verb: "update", APIGroup: "coordination.k8s.io", Resource: "leases", Namespace: "kube-node-lease", Name: "n1"}, true},
		{"another's lease", a{Verb: "update", APIGroup: "coordination.k8s.io", Resource: "leases", Namespace: "kube-node-lease", Name: "n2"}, false},
		{"the controllers' lease", a{Verb: "update", APIGroup: "coordination.k8s.io", Resource: "leases", Namespace: "kube-system", Name: "n1"}, false},
		{"attachment to it", a{Verb: "get", APIGroup: "storage.k8s.io", Resource: "volumeattachments", Name: "n1"}, true},
		{"attachment elsewhere", a{Verb: "get", APIGroup: "storage.k8s.io", Resource: "volumeattachments", Name: "n2"}, false},
		{"events", a{Verb: "create", Resource: "events", Namespace: "ns"}, true},
		{"deployments", a{Verb: "list", APIGroup: "apps", Resource: "deployments"}, false},
	} {
		tc.a.ResourceRequest = true
		tc.a.User = &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"system:nodes"}}
		d, reason, err := z.Authorize(t.Context(), tc.a)
		if err != nil || (d == authorizer.DecisionAllow) != tc.want {
			t.Errorf("%s: %v (%s, %v), want allowed %v", tc.name, d, reason, err, tc.want)
		}
		tc.a.User = &user.DefaultInfo{Name: "system:node:n1"}
		if d, _, _ := z.Authorize(t.Context(), tc.a); d != authorizer.DecisionNoOpinion {
			t.Errorf("%s: who isn't in system:nodes is none of its business, got %v", tc.name, d)
		}
	}
}
