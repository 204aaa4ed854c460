package validation

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestHostUsers(t *testing.T) {
	own, unmasked := false, corev1.UnmaskedProcMount
	for title, test := range map[string]struct {
		change func(*corev1.PodSpec)
		want   string
	}{
		"own users":               {func(s *corev1.PodSpec) { s.HostUsers = &own }, ""},
		"with the host's network": {func(s *corev1.PodSpec) { s.HostUsers, s.HostNetwork = &own, true }, "spec.hostNetwork: Forbidden: when `hostUsers` is false"},
		"with the host's PIDs":    {func(s *corev1.PodSpec) { s.HostUsers, s.HostPID = &own, true }, "spec.HostPID: Forbidden: when `hostUsers` is false"},
		"with the host's IPC":     {func(s *corev1.PodSpec) { s.HostUsers, s.HostIPC = &own, true }, "spec.HostIPC: Forbidden: when `hostUsers` is false"},
		"with the host's users":   {func(s *corev1.PodSpec) { s.HostPID = true }, ""},
		"proc unmasked": {func(s *corev1.PodSpec) {
			s.Containers[0].SecurityContext = &corev1.SecurityContext{ProcMount: &unmasked}
		}, "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"},
		"proc unmasked, own users": {func(s *corev1.PodSpec) {
			s.HostUsers, s.Containers[0].SecurityContext = &own, &corev1.SecurityContext{ProcMount: &unmasked}
		}, ""},
	} {
		expect(t, title, texts(goodPod(func(p *corev1.Pod) { test.change(&p.Spec) }), nil), test.want)
	}
}
