package criconfig

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestForbiddenAppArmor(t *testing.T) {
	name, empty := "mine", " "
	const host = "Cannot enforce AppArmor: AppArmor is not enabled on the host"
	for what, test := range map[string]struct {
		pod, container  *corev1.AppArmorProfile
		annotation      string
		without, withIt string
	}{
		"nothing":                  {},
		"unconfined":               {pod: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}},
		"default of the pod":       {pod: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}, without: host},
		"default of the container": {container: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}, without: host},
		"local":                    {container: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}, without: host},
		"nameless":                 {container: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &empty}, without: host, withIt: "invalid empty AppArmor profile name"},
		"annotation":               {annotation: "localhost/mine", without: host},
		"unconfining annotation":   {annotation: "unconfined"},
	} {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{}},
			Spec: corev1.PodSpec{
				SecurityContext: &corev1.PodSecurityContext{AppArmorProfile: test.pod},
				Containers:      []corev1.Container{{Name: "c", SecurityContext: &corev1.SecurityContext{AppArmorProfile: test.container}}},
			},
		}
		if test.annotation != "" {
			pod.Annotations["container.apparmor.security.beta.kubernetes.io/c"] = test.annotation
		}
		if got := ForbiddenAppArmor(pod, false); got != test.without {
			t.Errorf("%s, without AppArmor: %q", what, got)
		}
		if got := ForbiddenAppArmor(pod, true); test.withIt == "" && got != "" || !strings.Contains(got, test.withIt) {
			t.Errorf("%s, with AppArmor: %q", what, got)
		}
	}
}
