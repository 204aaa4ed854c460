package job

import (
	"context"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var freePatch = []byte(fmt.Sprintf(`{"metadata":{"$deleteFromPrimitiveList/finalizers":[%q]}}`, batchv1.JobTrackingFinalizer))

// free removes the tracking finalizer; a pod that is gone is no error.
func (c *Controller) free(ctx context.Context, p *corev1.Pod) error {
	err := c.pods.Patch(ctx, p, freePatch)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("removing tracking finalizer of pod %s: %w", p.Name, err)
	}
	return nil
}

// maybeStray queues a pod whose finalizer no running Job would remove, as far as the cache knows.
func (c *Controller) maybeStray(obj any) {
	p, ok := obj.(*corev1.Pod)
	if !ok || !tracked(p) {
		return
	}
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil && ref.Kind == kind.Kind {
		j, err := c.lister.Jobs(p.Namespace).Get(ref.Name)
		if err == nil && j.UID == ref.UID && (!Finished(j) || external(j)) {
			return
		}
	}
	c.strays.Add(types.NamespacedName{Namespace: p.Namespace, Name: p.Name})
}

// freeStray removes the finalizer of a pod whose Job is gone or finished, or that was released.
func (c *Controller) freeStray(ctx context.Context, key types.NamespacedName) error {
	p, err := c.pods.Lister.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !tracked(p) {
		return nil
	}
	ref := metav1.GetControllerOfNoCopy(p)
	if ref != nil && ref.Kind == kind.Kind {
		// The cache may not show the Job yet, so the API is asked.
		j, err := c.client.BatchV1().Jobs(p.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return err
		case j.UID == ref.UID && (!Finished(j) || external(j)):
			return nil
		}
	}
	return c.free(ctx, p)
}
