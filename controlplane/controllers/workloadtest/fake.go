// Package workloadtest runs one workload controller against a small fake cluster: client-go's fake clientset, taught
// the things that controllers rely on (names from generateName, UIDs, generations, graceful deletion left out).
//
// Reads and writes: only the fake.
package workloadtest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
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
	c.Informers = informers.NewSharedInformerFactory(c.Client, 0)
	return c
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
	if m.GetNamespace() == "" {
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
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
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
	p.ResourceVersion = fmt.Sprint(c.serial.Add(1))
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
	case <-time.After(5 * time.Second):
		c.T.Fatal("no event")
		return ""
	}
}
