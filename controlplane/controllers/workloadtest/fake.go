// Package workloadtest runs one workload controller against a small fake cluster: client-go's fake clientset, taught
// the things that controllers rely on (names from generateName, UIDs, generations, graceful deletion left out).
//
// Reads and writes: only the fake.
package workloadtest

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

// Cluster is a fake cluster.
type Cluster struct {
	T         testing.TB
	Client    *fake.Clientset
	Informers informers.SharedInformerFactory
	Recorder  *record.FakeRecorder
	serial    atomic.Int64
	mu        sync.Mutex
}

// New makes a cluster that holds the given objects.
func New(t testing.TB, objs ...runtime.Object) *Cluster {
	t.Helper()
	c := &Cluster{T: t, Recorder: record.NewFakeRecorder(1000)}
	for _, o := range objs {
		c.prepare(o)
	}
	c.Client = fake.NewClientset(objs...)
	c.Client.PrependReactor("create", "*", func(a kubetesting.Action) (bool, runtime.Object, error) {
		if create, ok := a.(kubetesting.CreateAction); ok {
			c.prepare(create.GetObject())
		}
		return false, nil, nil
	})
	c.Client.PrependReactor("update", "*", c.update)
	c.Client.PrependReactor("patch", "*", c.patch)
	c.Informers = informers.NewSharedInformerFactory(c.Client, 0)
	return c
}

// update keeps spec and status apart, refuses a stale resourceVersion and gives out new ones.
func (c *Cluster) update(a kubetesting.Action) (bool, runtime.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	obj := a.(kubetesting.UpdateAction).GetObject().DeepCopyObject() // it is one
	m, err := meta.Accessor(obj)
	if err != nil {
		return true, nil, err
	}
	cur, err := c.Client.Tracker().Get(a.GetResource(), a.GetNamespace(), m.GetName())
	if err != nil {
		return true, nil, err
	}
	if err := conflict(a, cur, m.GetResourceVersion()); err != nil {
		return true, nil, err
	}
	next := obj
	if a.GetSubresource() == "status" {
		next = cur.DeepCopyObject()
		copyField(next, obj, "Status")
		n, _ := meta.Accessor(next)
		n.SetAnnotations(m.GetAnnotations())
		n.SetLabels(m.GetLabels())
	} else {
		copyField(next, cur, "Status")
		c, _ := meta.Accessor(cur)
		m.SetUID(c.GetUID())
		m.SetCreationTimestamp(c.GetCreationTimestamp())
		m.SetGeneration(c.GetGeneration())
		bump(next, cur)
	}
	return true, next, c.store(a, next)
}

// bump raises the generation if the spec changed, or for kinds without a spec, always.
func bump(next, cur runtime.Object) {
	n, err := meta.Accessor(next)
	if err != nil {
		return
	}
	c, err := meta.Accessor(cur)
	if err != nil {
		return
	}
	was, is := reflect.ValueOf(cur).Elem().FieldByName("Spec"), reflect.ValueOf(next).Elem().FieldByName("Spec")
	if !is.IsValid() || !equality.Semantic.DeepEqual(was.Interface(), is.Interface()) {
		n.SetGeneration(c.GetGeneration() + 1)
	}
}

// patch lets the fake apply a patch, after checking the resourceVersion in it.
func (c *Cluster) patch(a kubetesting.Action) (bool, runtime.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := a.(kubetesting.PatchAction) // it is one
	var in struct {
		Metadata struct{ ResourceVersion string }
	}
	if err := json.Unmarshal(p.GetPatch(), &in); err != nil {
		return true, nil, err
	}
	cur, err := c.Client.Tracker().Get(a.GetResource(), a.GetNamespace(), p.GetName())
	if err != nil {
		return true, nil, err
	}
	if err := conflict(a, cur, in.Metadata.ResourceVersion); err != nil {
		return true, nil, err
	}
	_, next, err := kubetesting.ObjectReaction(c.Client.Tracker())(a)
	if err != nil {
		return true, nil, err
	}
	next = next.DeepCopyObject()
	bump(next, cur)
	return true, next, c.store(a, next)
}

func conflict(a kubetesting.Action, cur runtime.Object, version string) error {
	m, err := meta.Accessor(cur)
	if err != nil {
		return err
	}
	if version != "" && version != m.GetResourceVersion() {
		return apierrors.NewConflict(a.GetResource().GroupResource(), m.GetName(), fmt.Errorf("is at %s, not %s", m.GetResourceVersion(), version))
	}
	return nil
}

func (c *Cluster) store(a kubetesting.Action, obj runtime.Object) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	m.SetResourceVersion(fmt.Sprint(c.serial.Add(1)))
	return c.Client.Tracker().Update(a.GetResource(), obj, a.GetNamespace())
}

func copyField(to, from runtime.Object, name string) {
	f := reflect.ValueOf(from).Elem().FieldByName(name)
	if f.IsValid() {
		reflect.ValueOf(to).Elem().FieldByName(name).Set(f)
	}
}

// prepare does what an API server does to a new object.
func (c *Cluster) prepare(o runtime.Object) {
	m, err := meta.Accessor(o)
	if err != nil {
		c.T.Fatal(err)
	}
	n := c.serial.Add(1)
	if m.GetUID() == "" {
		m.SetUID(types.UID(fmt.Sprintf("uid-%d", n)))
	}
	if m.GetName() == "" && m.GetGenerateName() != "" {
		m.SetName(fmt.Sprintf("%s%05d", m.GetGenerateName(), n))
	}
	if ts := m.GetCreationTimestamp(); ts.IsZero() {
		m.SetCreationTimestamp(metav1.Now())
	}
	if m.GetGeneration() == 0 {
		m.SetGeneration(1)
	}
	m.SetResourceVersion(fmt.Sprint(n))
	_, node := o.(*corev1.Node)
	_, volume := o.(*corev1.PersistentVolume)
	if m.GetNamespace() == "" && !node && !volume {
		m.SetNamespace("default")
	}
}

// Start runs a controller until the test ends.
func (c *Cluster) Start(run func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	c.Informers.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	c.Informers.WaitForCacheSync(ctx.Done())
	c.T.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			c.T.Errorf("Run: %v", err)
		}
	})
}

// Eventually waits until ok returns true.
func (c *Cluster) Eventually(what string, ok func() bool) {
	c.T.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	c.T.Fatalf("gave up waiting until %s", what)
}

// Pods lists the pods of the default namespace.
func (c *Cluster) Pods() []corev1.Pod {
	c.T.Helper()
	l, err := c.Client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	return l.Items
}

// SetReady marks a pod running, and ready or not.
func (c *Cluster) SetReady(name string, ready bool) {
	c.T.Helper()
	p, err := c.Client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	p.Status = ReadyStatus(ready, time.Now())
	if _, err := c.Client.CoreV1().Pods("default").UpdateStatus(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		c.T.Fatal(err)
	}
}

// ReadyStatus is the status of a running pod that has been ready, or not, since a time.
func ReadyStatus(ready bool, since time.Time) corev1.PodStatus {
	s := corev1.ConditionFalse
	if ready {
		s = corev1.ConditionTrue
	}
	return corev1.PodStatus{
		Phase: corev1.PodRunning,
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: s, LastTransitionTime: metav1.NewTime(since)},
		},
	}
}

// Event returns the next event recorded, "type reason message".
func (c *Cluster) Event() string {
	c.T.Helper()
	select {
	case e := <-c.Recorder.Events:
		return e
	case <-time.After(20 * time.Second):
		c.T.Fatal("no event")
		return ""
	}
}
