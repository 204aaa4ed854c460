package podworker

import (
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri/fakecri"
)

// ranges gives every pod the same users.
type ranges struct {
	mu       sync.Mutex
	released []types.UID
}

func (r *ranges) Namespace(types.UID) (*runtimeapi.UserNamespace, error) {
	one := []*runtimeapi.IDMapping{{HostId: 1 << 20, Length: 1 << 16}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: one, Gids: one}, nil
}

func (r *ranges) Release(uid types.UID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.released = append(r.released, uid)
	return nil
}

func ownUsersPod(name string) *corev1.Pod {
	return testPod(name, func(p *corev1.Pod) { no := false; p.Spec.HostUsers = &no })
}

func TestUserNamespaceOfAPod(t *testing.T) {
	rt := fakecri.New("img:1")
	rt.Features = &runtimeapi.RuntimeHandlerFeatures{UserNamespaces: true}
	var mu sync.Mutex
	var sandbox *runtimeapi.UserNamespace
	rt.OnSandbox = func(c *runtimeapi.PodSandboxConfig) error {
		mu.Lock()
		defer mu.Unlock()
		sandbox = c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions()
		return nil
	}
	var container *runtimeapi.ContainerConfig
	rt.OnStart = func(c *runtimeapi.ContainerConfig) fakecri.Script {
		mu.Lock()
		defer mu.Unlock()
		container = c
		return fakecri.Script{Exits: true}
	}
	n := newNode(t, rt)
	users := &ranges{}
	n.m.users = users
	pod := ownUsersPod("a")
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	n.m.Set(Desired{Pod: pod})
	n.until("succeeded", func() bool { return n.status(pod.UID).Phase == corev1.PodSucceeded })
	mu.Lock()
	if sandbox.GetMode() != runtimeapi.NamespaceMode_POD || sandbox.GetUids()[0].HostId != 1<<20 {
		t.Errorf("sandbox: %v", sandbox)
	}
	if got := container.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions(); got.GetMode() != runtimeapi.NamespaceMode_POD {
		t.Errorf("container: %v", got)
	}
	for _, m := range container.GetMounts() {
		if len(m.UidMappings) != 1 || len(m.GidMappings) != 1 {
			t.Errorf("a mount whose files belong to others: %v", m)
		}
		if strings.HasPrefix(m.HostPath, n.m.cfg.HostsDir+"/") {
			t.Errorf("a mount that kernels before 6.3 can't map: %v", m)
		}
	}
	mu.Unlock()
	n.until("the range given back", func() bool {
		users.mu.Lock()
		defer users.mu.Unlock()
		return slices.Contains(users.released, pod.UID)
	})
	if started, failed := n.m.UserNamespacedPods(); started != 1 || failed != 0 {
		t.Errorf("counted %d, %d", started, failed)
	}
}

func TestRuntimeWithoutUserNamespaces(t *testing.T) {
	n := newNode(t, fakecri.New("img:1"))
	n.m.users = &ranges{}
	pod := ownUsersPod("a")
	n.m.Set(Desired{Pod: pod})
	n.until("an event", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return slices.ContainsFunc(n.events, func(e string) bool {
			return strings.Contains(e, "FailedCreatePodSandBox") && strings.Contains(e, "can't set `spec.hostUsers: false`, runtime does not support user namespaces")
		})
	})
	if started, failed := n.m.UserNamespacedPods(); started == 0 || failed == 0 {
		t.Errorf("counted %d, %d", started, failed)
	}
}

func TestRecursiveReadOnlyIfPossible(t *testing.T) {
	for mode, want := range map[corev1.RecursiveReadOnlyMode]string{corev1.RecursiveReadOnlyIfPossible: "", corev1.RecursiveReadOnlyEnabled: "not supported by the runtime"} {
		for _, able := range []bool{true, false} {
			rt := fakecri.New("img:1")
			rt.Features = &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: able}
			n := newNode(t, rt)
			c := &corev1.Container{VolumeMounts: []corev1.VolumeMount{{Name: "v", ReadOnly: true, RecursiveReadOnly: &mode}}}
			mounts := []*runtimeapi.Mount{{Readonly: true, RecursiveReadOnly: true}}
			err := n.m.resolveReadOnly(t.Context(), "", c, mounts)
			switch {
			case able && (err != nil || !mounts[0].RecursiveReadOnly):
				t.Errorf("%s where it is possible: %v, %v", mode, mounts, err)
			case !able && want == "" && (err != nil || mounts[0].RecursiveReadOnly):
				t.Errorf("%s where it isn't: %v, %v", mode, mounts, err)
			case !able && want != "" && (err == nil || !strings.Contains(err.Error(), want)):
				t.Errorf("%s where it isn't: %v", mode, err)
			}
		}
	}
}
