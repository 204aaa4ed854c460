// Package ttlafterfinished deletes finished Jobs that have outlived their ttlSecondsAfterFinished.
//
// Reads: Jobs. Writes: deletes Jobs, their dependents in the foreground.
package ttlafterfinished

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
)

// Config is what the controller is given.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
}

// Controller has a timer for each finished Job that is to go.
type Controller struct {
	client kubernetes.Interface
	jobs   batchlisters.JobLister
	queue  *keyqueue.Queue[types.NamespacedName]
	synced cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	jobs := cfg.Informers.Batch().V1().Jobs()
	c := &Controller{client: cfg.Client, jobs: jobs.Lister()}
	c.queue = keyqueue.New("ttlafterfinished", 2, c.reconcile)
	var err error
	c.synced, err = keyqueue.WatchChanges(jobs.Informer(), func(_, j *batchv1.Job, gone bool) {
		if _, ok := end(j); ok && !gone {
			c.queue.Add(types.NamespacedName{Namespace: j.Namespace, Name: j.Name})
		}
	})
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error { return c.queue.RunWhenSynced(ctx, c.synced) }

// end is when a Job may go; false if it isn't finished or has no limit.
func end(j *batchv1.Job) (time.Time, bool) {
	if j.Spec.TTLSecondsAfterFinished == nil || j.DeletionTimestamp != nil {
		return time.Time{}, false
	}
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second), true
		}
	}
	return time.Time{}, false
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	j, err := c.jobs.Jobs(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	at, ok := end(j)
	if !ok {
		return nil
	}
	if left := time.Until(at); left > 0 {
		c.queue.AddAfter(key, left)
		return nil
	}
	// The limit may have been raised since the cache was filled: the resource version guards against that.
	foreground := metav1.DeletePropagationForeground
	err = c.client.BatchV1().Jobs(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{
		PropagationPolicy: &foreground, Preconditions: &metav1.Preconditions{UID: &j.UID, ResourceVersion: &j.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("job %s: %w", key, err)
	}
	return nil
}
