package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	volumehelper "k8s.io/component-helpers/storage/volume"

	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

// bindVolumesTimeout is how long a chosen pod waits for its claims to be bound or provisioned, as upstream.
const bindVolumesTimeout = 10 * time.Minute

// volumes looks volume objects up in the shared caches, and binds those that waited for the pod's node.
type volumes struct {
	client  kubernetes.Interface
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
}

var _ fit.Volumes = (*volumes)(nil)

func newVolumes(client kubernetes.Interface, f informers.SharedInformerFactory) *volumes {
	return &volumes{
		client:  client,
		claims:  f.Core().V1().PersistentVolumeClaims().Lister(),
		volumes: f.Core().V1().PersistentVolumes().Lister(),
		classes: f.Storage().V1().StorageClasses().Lister(),
	}
}

// A lister over a cache fails only with NotFound, so an error means nil.

func (v *volumes) Claim(namespace, name string) *corev1.PersistentVolumeClaim {
	c, err := v.claims.PersistentVolumeClaims(namespace).Get(name)
	if err != nil {
		return nil
	}
	return c
}

func (v *volumes) Volume(name string) *corev1.PersistentVolume {
	pv, err := v.volumes.Get(name)
	if err != nil {
		return nil
	}
	return pv
}

func (v *volumes) VolumesOfClass(class string) []*corev1.PersistentVolume {
	all, err := v.volumes.List(labels.Everything())
	if err != nil {
		return nil
	}
	var out []*corev1.PersistentVolume
	for _, pv := range all {
		if volumehelper.GetPersistentVolumeClass(pv) == class {
			out = append(out, pv)
		}
	}
	return out
}

func (v *volumes) Class(name string) *storagev1.StorageClass {
	if name == "" {
		return nil
	}
	c, err := v.classes.Get(name)
	if err != nil {
		return nil
	}
	return c
}

// bind does what was chosen and waits until the volume controller, or a provisioner, has bound every claim.
func (v *volumes) bind(ctx context.Context, node string, choices []fit.VolumeChoice) error {
	for _, c := range choices {
		var err error
		if c.Volume != nil {
			err = v.claimVolume(ctx, c)
		} else {
			err = v.selectNode(ctx, c.Claim, node)
		}
		if err != nil {
			return fmt.Errorf("binding volumes: %w", err)
		}
	}
	if len(choices) == 0 {
		return nil
	}
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, bindVolumesTimeout, true, func(context.Context) (bool, error) {
		for _, c := range choices {
			claim := v.Claim(c.Claim.Namespace, c.Claim.Name)
			switch {
			case claim == nil || claim.DeletionTimestamp != nil:
				return false, fmt.Errorf("persistentvolumeclaim %q is gone", c.Claim.Name)
			case claim.Spec.VolumeName == "" || claim.Annotations[volumehelper.AnnBindCompleted] == "":
				if c.Volume == nil && claim.Annotations[volumehelper.AnnSelectedNode] == "" && claim.ResourceVersion != c.Claim.ResourceVersion {
					return false, errors.New("provisioning failed, the pod will be scheduled again") // the provisioner took the node back
				}
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("binding volumes: %w", err)
	}
	return nil
}

// claimVolume reserves a volume for a claim; the volume controller does the rest. The resource version of the choice
// makes this fail if someone else took the volume meanwhile.
func (v *volumes) claimVolume(ctx context.Context, c fit.VolumeChoice) error {
	pv, dirty, err := volumehelper.GetBindVolumeToClaim(c.Volume, c.Claim)
	if err != nil || !dirty {
		return err
	}
	_, err = v.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	return err
}

func (v *volumes) selectNode(ctx context.Context, claim *corev1.PersistentVolumeClaim, node string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": claim.UID, "annotations": map[string]string{volumehelper.AnnSelectedNode: node},
	}})
	if err != nil {
		return err
	}
	_, err = v.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}
