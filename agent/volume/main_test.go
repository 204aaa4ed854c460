package volume

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/mote-edge/mote/agent/objects"
)

// TestMain runs the tests in a mount namespace of their own.
func TestMain(m *testing.M) {
	const marker = "MOTE_VOLUME_TEST_NS"
	if os.Getuid() != 0 || os.Getenv(marker) != "" {
		os.Exit(m.Run())
	}
	self := exec.Command("/proc/self/exe", os.Args[1:]...)
	self.Stdout, self.Stderr = os.Stdout, os.Stderr
	self.Env = append(os.Environ(), marker+"=1")
	self.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // makes / private, too
	if err := self.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// cluster is a small working API server.
type cluster struct {
	mu       sync.Mutex
	version  int
	objects  map[objects.Ref]objects.Object
	watchers map[objects.Ref][]*watch.RaceFreeFakeWatcher
	claims   map[string]*corev1.PersistentVolumeClaim
	volumes  map[string]*corev1.PersistentVolume
	tokens   int
	tokenErr error
	listErr  error
	life     time.Duration
}

func (c *cluster) List(_ context.Context, ref objects.Ref) (objects.Object, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listErr != nil {
		return nil, "", c.listErr
	}
	if o := c.objects[ref]; o != nil {
		return o.DeepCopyObject().(objects.Object), strconv.Itoa(c.version), nil
	}
	return nil, strconv.Itoa(c.version), nil
}

func (c *cluster) Watch(ctx context.Context, ref objects.Ref, from string) (watch.Interface, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := watch.NewRaceFreeFake()
	if o := c.objects[ref]; o != nil && o.GetResourceVersion() > from {
		w.Modify(o.DeepCopyObject())
	}
	c.watchers[ref] = append(c.watchers[ref], w)
	context.AfterFunc(ctx, w.Stop)
	return w, nil
}

// away takes the API server out of reach.
func (c *cluster) away(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listErr, c.tokenErr = nil, nil
	if away {
		err := &url.Error{Op: "Get", URL: "https://server", Err: errors.New("connection refused")}
		c.listErr, c.tokenErr = err, err
	}
}

func (c *cluster) put(ref objects.Ref, o objects.Object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	o.SetResourceVersion(strconv.Itoa(c.version))
	o.SetNamespace(ref.Namespace)
	o.SetName(ref.Name)
	c.objects[ref] = o
	for _, w := range c.watchers[ref] {
		if !w.IsStopped() {
			w.Modify(o.DeepCopyObject())
		}
	}
}

func (c *cluster) configMap(name string, data map[string]string) {
	c.put(objects.Ref{Kind: objects.ConfigMaps, Namespace: "ns", Name: name}, &corev1.ConfigMap{Data: data})
}

func (c *cluster) secret(name string, data map[string][]byte) {
	c.put(objects.Ref{Kind: objects.Secrets, Namespace: "ns", Name: name}, &corev1.Secret{Data: data})
}

func (c *cluster) Token(_ context.Context, namespace, account string, tr *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tokenErr != nil {
		return nil, c.tokenErr
	}
	c.tokens++
	out := tr.DeepCopy()
	out.Status.Token = fmt.Sprintf("token-%d of %s/%s for %v to %s", c.tokens, namespace, account, tr.Spec.Audiences, tr.Spec.BoundObjectRef.Name)
	out.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(c.life))
	return out, nil
}

func (c *cluster) Claim(_ context.Context, _, name string) (*corev1.PersistentVolumeClaim, error) {
	if c.listErr != nil {
		return nil, c.listErr
	}
	if o := c.claims[name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumeclaims"}, name)
}

func (c *cluster) Volume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	if c.listErr != nil {
		return nil, c.listErr
	}
	if o := c.volumes[name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumes"}, name)
}

func (c *cluster) Allocatable() corev1.ResourceList {
	return corev1.ResourceList{"memory": resource.MustParse("1Gi"), "cpu": resource.MustParse("2")}
}

func setup(t *testing.T) (*Volumes, *cluster) {
	t.Helper()
	return setupAt(t, time.Now)
}

// setupAt is setup with another clock.
func setupAt(t *testing.T, now func() time.Time) (*Volumes, *cluster) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	c := &cluster{objects: map[objects.Ref]objects.Object{}, watchers: map[objects.Ref][]*watch.RaceFreeFakeWatcher{}, life: time.Hour}
	dir := t.TempDir()
	v, err := New(Config{PodsDir: filepath.Join(dir, "pods"), MemoryDir: filepath.Join(dir, "secrets"), Objects: c, API: c, Node: c})
	if err != nil {
		t.Fatal(err)
	}
	v.now = now
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, v.Cleanup(), v.Cleanup()); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(filepath.Join(dir, "pods")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return v, c
}

func pod(volumes ...corev1.Volume) *corev1.Pod {
	for i := range volumes {
		if volumes[i].Name == "" {
			volumes[i].Name = "v" + strconv.Itoa(i)
		}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: types.UID("uid-1"), Labels: map[string]string{"app": "a"}},
		Spec:       corev1.PodSpec{ServiceAccountName: "sa", Volumes: volumes, Containers: []corev1.Container{{Name: "c"}}},
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 600 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func ptr[T any](v T) *T { return &v }
