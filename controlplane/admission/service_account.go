package admission

import (
	"context"
	"errors"
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

var getOptions = metav1.GetOptions{}

const (
	tokenMountPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolume    = "kube-api-access-"
	// tokenSeconds: an hour, and some seconds by which the token controller tells these tokens from others, as upstream.
	tokenSeconds = 60*60 + 7
)

// serviceAccount gives a pod its service account, the account's pull secrets, and the projected volume with a token,
// the cluster's CA and the namespace.
type serviceAccount struct {
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
}

var (
	_ admission.MutationInterface   = (*serviceAccount)(nil)
	_ admission.ValidationInterface = (*serviceAccount)(nil)
)

func (*serviceAccount) Handles(op admission.Operation) bool {
	return op == admission.Create || op == admission.Update
}

func (s *serviceAccount) SetExternalKubeClientSet(c kubernetes.Interface) { s.client = c }

func (s *serviceAccount) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Core().V1().ServiceAccounts()
	i.Informer()
	s.accounts = i.Lister()
}

func (s *serviceAccount) ValidateInitialization() error {
	if s.client == nil || s.accounts == nil {
		return errors.New("the service account informer and client are not set")
	}
	return nil
}

func (s *serviceAccount) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	pod := admittedPod(a)
	if pod == nil || a.GetOperation() != admission.Create {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return s.Validate(ctx, a, o)
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = "default"
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := s.get(ctx, a.GetNamespace(), pod.Spec.ServiceAccountName)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), pod.Spec.ServiceAccountName, err))
	}
	if automount(account, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = append([]corev1.LocalObjectReference(nil), account.ImagePullSecrets...)
	}
	return s.Validate(ctx, a, o)
}

// Validate keeps mirror pods from what only the API server can give, and ephemeral containers from changing anything.
func (s *serviceAccount) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod := admittedPod(a)
	if pod == nil || a.GetOperation() != admission.Create {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return nil
	}
	if pod.Spec.ServiceAccountName != "" {
		return admission.NewForbidden(a, errors.New("a mirror pod may not reference service accounts"))
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil {
			return admission.NewForbidden(a, errors.New("a mirror pod may not reference secrets"))
		}
		if v.Projected == nil {
			continue
		}
		for _, src := range v.Projected.Sources {
			if src.ServiceAccountToken != nil || src.Secret != nil {
				return admission.NewForbidden(a, errors.New("a mirror pod may not use ServiceAccountToken volume projections"))
			}
		}
	}
	return nil
}

// get asks the cache first and then the server: a pod often follows its account by milliseconds.
func (s *serviceAccount) get(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	account, err := s.accounts.ServiceAccounts(namespace).Get(name)
	if !apierrors.IsNotFound(err) {
		return account, err
	}
	return s.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, getOptions)
}

func automount(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	if v := pod.Spec.AutomountServiceAccountToken; v != nil {
		return *v
	}
	if v := account.AutomountServiceAccountToken; v != nil {
		return *v
	}
	return true
}

// mountToken adds the volume once, and the mount to each container that has nothing at its place.
func mountToken(pod *corev1.Pod) {
	name, taken := "", map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		taken[v.Name] = true
		if len(v.Name) > len(tokenVolume) && v.Name[:len(tokenVolume)] == tokenVolume && v.Projected != nil {
			name = v.Name
		}
	}
	added := name == ""
	for name == "" || added && taken[name] {
		name = names.SimpleNameGenerator.GenerateName(tokenVolume)
	}
	needed := false
	mount := corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if mountsAt(list[i].VolumeMounts, tokenMountPath) {
				continue
			}
			list[i].VolumeMounts = append(list[i].VolumeMounts, mount)
			needed = true
		}
	}
	if needed && added {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenSource()}})
	}
}

func mountsAt(mounts []corev1.VolumeMount, at string) bool {
	for _, m := range mounts {
		if path.Clean(m.MountPath) == at {
			return true
		}
	}
	return false
}

func tokenSource() *corev1.ProjectedVolumeSource {
	mode, seconds := int32(0o644), int64(tokenSeconds)
	return &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
		{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
		}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
		}}},
	}}
}
