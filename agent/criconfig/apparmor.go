package criconfig

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ForbiddenAppArmor returns why this node can't confine the pod as it asks, or "".
func ForbiddenAppArmor(pod *corev1.Pod, enabled bool) string {
	var asked []*corev1.AppArmorProfile
	p, _ := contexts(pod, nil)
	asked = append(asked, p.AppArmorProfile)
	each := func(c *corev1.Container) {
		_, s := contexts(pod, c)
		asked = append(asked, or(s.AppArmorProfile, annotatedProfile(pod, c.Name)))
	}
	for i := range pod.Spec.InitContainers {
		each(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		each(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.EphemeralContainers {
		each((*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	for _, profile := range asked {
		if profile == nil || profile.Type == corev1.AppArmorProfileTypeUnconfined {
			continue
		}
		if !enabled {
			return "Cannot enforce AppArmor: AppArmor is not enabled on the host"
		}
		if profile.Type == corev1.AppArmorProfileTypeLocalhost && (profile.LocalhostProfile == nil || strings.TrimSpace(*profile.LocalhostProfile) == "") {
			return "Cannot enforce AppArmor: invalid empty AppArmor profile name: " + fmt.Sprintf("%q", profile.Type)
		}
	}
	// An annotation for a container that doesn't exist counts as well.
	for _, key := range slices.Sorted(maps.Keys(pod.Annotations)) {
		if strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) && !enabled &&
			pod.Annotations[key] != corev1.DeprecatedAppArmorBetaProfileNameUnconfined {
			return "Cannot enforce AppArmor: AppArmor is not enabled on the host"
		}
	}
	return ""
}

// annotatedProfile is what the annotation of old says, which manifests of static pods may still have.
func annotatedProfile(pod *corev1.Pod, container string) *corev1.AppArmorProfile {
	value, found := pod.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+container]
	name, local := strings.CutPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
	switch {
	case !found:
	case value == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case local:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	return nil
}
