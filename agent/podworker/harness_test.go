package podworker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/cri/fakecri"
	"github.com/mote-edge/mote/agent/criconfig"
	"github.com/mote-edge/mote/agent/image"
)

// node is a whole node around a fake runtime: real workers, hand-made surroundings.
type node struct {
	t        *testing.T
	rt       *fakecri.Runtime
	m        *Manager
	endpoint string
	stop     context.CancelFunc
	stopped  chan struct{}

	mu       sync.Mutex
	statuses map[types.UID]*corev1.PodStatus
	history  map[types.UID][]corev1.PodStatus
	removed  map[types.UID]bool
	events   []string
	mountErr error
	mounted  map[types.UID]int
	cgroups  map[types.UID]bool
	secrets  map[string]*corev1.Secret
	configs  map[string]*corev1.ConfigMap
}

func newNode(t *testing.T, rt *fakecri.Runtime) *node {
	n := &node{
		t: t, rt: rt, endpoint: rt.Serve(t), statuses: map[types.UID]*corev1.PodStatus{}, history: map[types.UID][]corev1.PodStatus{},
		removed: map[types.UID]bool{}, mounted: map[types.UID]int{}, cgroups: map[types.UID]bool{},
		secrets: map[string]*corev1.Secret{}, configs: map[string]*corev1.ConfigMap{},
	}
	n.start(scratch(t))
	return n
}

// scratch is a directory for a node. Unlike the testing package's own it may get a last file while it is being removed: what a
// worker had begun when its node was stopped.
func scratch(t *testing.T) string {
	dir, err := os.MkdirTemp("", "podworker-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for deadline := time.Now().Add(5 * time.Second); os.RemoveAll(dir) != nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		}
	})
	return dir
}

// start runs an agent; restart runs another one after it.
func (n *node) start(dir string) {
	ctx, cancel := context.WithCancel(context.Background())
	client, err := cri.Dial(n.endpoint)
	if err != nil {
		n.t.Fatal(err)
	}
	puller, err := image.New(image.Config{Images: client.Images, Parallel: 5})
	if err != nil {
		n.t.Fatal(err)
	}
	n.m = New(ctx, Config{PodLogDir: dir + "/log/pods", PodsDir: dir + "/pods", HostsDir: dir + "/hosts", ClusterDomain: "cluster.local", ClusterDNS: []string{"10.43.0.10"}, MaxPods: 110}, Deps{
		CRI: client, Images: puller, Volumes: n, Cgroups: cgroups{n}, Node: info{}, Objects: n, Services: n, Statuses: n, Events: n,
		Handler: func(_ context.Context, class string) (string, error) { return class, nil }, Runtime: "fake", Log: slog.New(slog.DiscardHandler),
	})
	synced := make(chan struct{}, 1)
	n.stop, n.stopped = cancel, make(chan struct{})
	stopped := n.stopped
	go func() {
		defer close(stopped)
		_ = n.m.Run(ctx, func() {
			select {
			case synced <- struct{}{}:
			default:
			}
		})
		_ = client.Close()
	}()
	n.t.Cleanup(func() { cancel(); <-stopped })
	<-synced
}

func (n *node) restart(dir string) {
	n.stop()
	<-n.stopped
	n.start(dir)
}

type info struct{}

func (info) HostIPs() []string                { return []string{"192.0.2.1"} }
func (info) Allocatable() corev1.ResourceList { return nil }
func (info) Labels() map[string]string        { return map[string]string{"kubernetes.io/hostname": "n1"} }

type cgroups struct{ *node }

func (c cgroups) Ensure(pod *corev1.Pod) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cgroups[pod.UID] = true
	return "/kubepods/pod" + string(pod.UID), nil
}

func (c cgroups) Remove(uid types.UID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.cgroups, uid)
	return nil
}
func (c cgroups) Pods() ([]types.UID, error) { return nil, nil }

func (n *node) Mount(_ context.Context, pod *corev1.Pod) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mountErr == nil {
		n.mounted[pod.UID]++
	}
	return n.mountErr
}

func (n *node) ContainerMounts(context.Context, *corev1.Pod, *corev1.Container, func(string) (string, error)) ([]*runtimeapi.Mount, error) {
	return nil, nil
}

func (n *node) ContainerDevices(*corev1.Pod, *corev1.Container) ([]*runtimeapi.Device, error) {
	return nil, nil
}

func (n *node) EmptyDirFile(*corev1.Pod, string, string) (string, error) {
	return "", criconfig.ErrNoFile
}

func (n *node) Unmount(_ context.Context, uid types.UID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.mounted, uid)
	return nil
}
func (n *node) Pods() ([]types.UID, error) { return nil, nil }

func (n *node) Services(context.Context, string) ([]*corev1.Service, error) { return nil, nil }

func (n *node) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := n.configs[name]; m != nil {
		return m, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (n *node) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.secrets[name]; s != nil {
		return s, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func (n *node) Set(pod *corev1.Pod, st *corev1.PodStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.statuses[pod.UID] = st
	n.history[pod.UID] = append(n.history[pod.UID], *st)
}

func (n *node) Remove(pod *corev1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removed[pod.UID] = true
}
func (n *node) Forget(types.UID) {}

func (n *node) Pod(pod *corev1.Pod, container, kind, reason, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, fmt.Sprintf("%s %s %s: %s", pod.Name+"/"+container, kind, reason, message))
}

func (n *node) status(uid types.UID) corev1.PodStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	if st := n.statuses[uid]; st != nil {
		return *st
	}
	return corev1.PodStatus{}
}

func (n *node) until(what string, ok func() bool) {
	n.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		n.t.Log(e)
	}
	for uid, st := range n.statuses {
		n.t.Logf("%s: %s %+v", uid, st.Phase, st.ContainerStatuses)
	}
	n.t.Fatal("never happened: ", what, n.rt.Calls())
}

func (n *node) ready(uid types.UID) bool {
	for _, c := range n.status(uid).Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func testPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name + "-uid"), ResourceVersion: "1", Generation: 1},
		Spec: corev1.PodSpec{
			NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: new(int64(30)),
			Containers: []corev1.Container{{Name: "main", Image: "img:1", ImagePullPolicy: corev1.PullIfNotPresent}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func deleted(p *corev1.Pod, grace int64) *corev1.Pod {
	d := p.DeepCopy()
	now := metav1.Now()
	d.DeletionTimestamp, d.DeletionGracePeriodSeconds, d.ResourceVersion = &now, &grace, "2"
	return d
}
