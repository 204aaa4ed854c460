package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/mote-edge/mote/controlplane/apiserver/nodeauthz"
)

// nodeObjects is what the node authorizer looks up, all of it from the server's own watch caches, where pods are indexed
// by node: a second copy of every pod would cost more than these look-ups.
type nodeObjects struct {
	client kubernetes.Interface
	stores *stores
}

var _ nodeauthz.Objects = (*nodeObjects)(nil)

func (o *nodeObjects) PodsOf(ctx context.Context, node string, fresh bool) ([]*corev1.Pod, error) {
	return o.stores.podsOf(ctx, node, fresh)
}

func (o *nodeObjects) Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	return o.client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
}

func (o *nodeObjects) Attachment(ctx context.Context, name string) (*storagev1.VolumeAttachment, error) {
	return o.client.StorageV1().VolumeAttachments().Get(ctx, name, metav1.GetOptions{})
}
