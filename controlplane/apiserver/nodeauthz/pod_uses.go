package nodeauthz

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// containers calls f for the parts of every container that may refer to an object.
func containers(p *corev1.Pod, f func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool) bool {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if f(list[i].Env, list[i].EnvFrom) {
				return true
			}
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if f(p.Spec.EphemeralContainers[i].Env, p.Spec.EphemeralContainers[i].EnvFrom) {
			return true
		}
	}
	return false
}

func usesSecret(p *corev1.Pod, name string) bool {
	if slices.ContainsFunc(p.Spec.ImagePullSecrets, func(r corev1.LocalObjectReference) bool { return r.Name == name }) {
		return true
	}
	if containers(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			if v := env[i].ValueFrom; v != nil && v.SecretKeyRef != nil && v.SecretKeyRef.Name == name {
				return true
			}
		}
		for i := range from {
			if from[i].SecretRef != nil && from[i].SecretRef.Name == name {
				return true
			}
		}
		return false
	}) {
		return true
	}
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return volumeUsesSecret(&v, name) })
}

func volumeUsesSecret(v *corev1.Volume, name string) bool {
	ref := func(r *corev1.LocalObjectReference) bool { return r != nil && r.Name == name }
	switch {
	case v.Secret != nil:
		return v.Secret.SecretName == name
	case v.Projected != nil:
		return slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.Secret != nil && s.Secret.Name == name
		})
	case v.CSI != nil:
		return ref(v.CSI.NodePublishSecretRef)
	case v.ISCSI != nil:
		return ref(v.ISCSI.SecretRef)
	case v.FlexVolume != nil:
		return ref(v.FlexVolume.SecretRef)
	case v.CephFS != nil:
		return ref(v.CephFS.SecretRef)
	case v.RBD != nil:
		return ref(v.RBD.SecretRef)
	case v.AzureFile != nil:
		return v.AzureFile.SecretName == name
	case v.ScaleIO != nil:
		return ref(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		return ref(v.StorageOS.SecretRef)
	}
	return false
}

func usesConfigMap(p *corev1.Pod, name string) bool {
	if containers(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
		for i := range env {
			if v := env[i].ValueFrom; v != nil && v.ConfigMapKeyRef != nil && v.ConfigMapKeyRef.Name == name {
				return true
			}
		}
		for i := range from {
			if from[i].ConfigMapRef != nil && from[i].ConfigMapRef.Name == name {
				return true
			}
		}
		return false
	}) {
		return true
	}
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		if v.ConfigMap != nil {
			return v.ConfigMap.Name == name
		}
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.ConfigMap != nil && s.ConfigMap.Name == name
		})
	})
}

// usesClaim counts generic ephemeral volumes, whose claims are named after pod and volume.
func usesClaim(p *corev1.Pod, name string) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == name ||
			v.Ephemeral != nil && p.Name+"-"+v.Name == name
	})
}

func usesServiceAccount(p *corev1.Pod, name string) bool { return p.Spec.ServiceAccountName == name }

func usesResourceClaim(p *corev1.Pod, name string) bool {
	if x := p.Status.ExtendedResourceClaimStatus; x != nil && x.ResourceClaimName == name {
		return true
	}
	return slices.ContainsFunc(p.Spec.ResourceClaims, func(c corev1.PodResourceClaim) bool {
		return c.ResourceClaimName != nil && *c.ResourceClaimName == name
	}) || slices.ContainsFunc(p.Status.ResourceClaimStatuses, func(c corev1.PodResourceClaimStatus) bool {
		return c.ResourceClaimName != nil && *c.ResourceClaimName == name
	})
}
