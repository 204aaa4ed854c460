package criconfig

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestUserNamespace(t *testing.T) {
	one := []*runtimeapi.IDMapping{{HostId: 65536, Length: 65536}}
	users := &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: one, Gids: one}
	unmasked := corev1.UnmaskedProcMount
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", SecurityContext: &corev1.SecurityContext{ProcMount: &unmasked}}}}}

	sandbox, err := Sandbox(SandboxInput{Pod: pod, Users: users})
	if err != nil || sandbox.Linux.SecurityContext.NamespaceOptions.UsernsOptions != users {
		t.Errorf("sandbox: %v, %v", sandbox, err)
	}
	in := ContainerInput{Pod: pod, Container: &pod.Spec.Containers[0], Users: users, Mounts: []*runtimeapi.Mount{{ContainerPath: "/a"}, {ContainerPath: "/b"}}}
	got, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	sc := got.Linux.SecurityContext
	if sc.NamespaceOptions.UsernsOptions != users || len(sc.MaskedPaths)+len(sc.ReadonlyPaths) != 0 {
		t.Errorf("security context: %v", sc)
	}
	for _, m := range got.Mounts {
		if len(m.UidMappings) != 1 || m.UidMappings[0] != one[0] || len(m.GidMappings) != 1 {
			t.Errorf("mount: %v", m)
		}
	}

	in.Users = nil
	if _, err := Container(in); err == nil || !strings.Contains(err.Error(), "set hostUsers to false") {
		t.Errorf("procMount Unmasked among the host's users: %v", err)
	}
}
