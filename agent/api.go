package agent

import (
	"context"
	"errors"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/mote-edge/mote/agent/event"
	"github.com/mote-edge/mote/agent/image"
	"github.com/mote-edge/mote/agent/objects"
	"github.com/mote-edge/mote/agent/source"
	"github.com/mote-edge/mote/agent/status"
	"github.com/mote-edge/mote/agent/volume"
	"github.com/mote-edge/mote/internal/kubeclient"
)

// apiServer is what the parts of the node need of the API server, each through its own small interface.
type apiServer struct {
	client *kubeclient.Client
	node   string
}

var (
	_ source.API        = apiServer{}
	_ source.ServiceAPI = apiServer{}
	_ status.API        = apiServer{}
	_ event.API         = apiServer{}
	_ volume.API        = apiServer{}
	_ image.Accounts    = apiServer{}
)

func (a apiServer) ListPods(ctx context.Context, o metav1.ListOptions) (*corev1.PodList, error) {
	return a.client.Pods("").List(ctx, o)
}

func (a apiServer) WatchPods(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return a.client.Pods("").Watch(ctx, o)
}

func (a apiServer) CreatePod(ctx context.Context, pod *corev1.Pod) (*corev1.Pod, error) {
	return a.client.Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
}

func (a apiServer) DeletePod(ctx context.Context, namespace, name string, uid types.UID) error {
	return a.client.Pods(namespace).Delete(ctx, name, status.DeleteNow(uid))
}

func (a apiServer) PatchPodStatus(ctx context.Context, namespace, name string, patch []byte) (*corev1.Pod, error) {
	return a.client.Pods(namespace).Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
}

func (a apiServer) Node(ctx context.Context) (*corev1.Node, error) {
	return a.client.Nodes().Get(ctx, a.node, metav1.GetOptions{})
}

func (a apiServer) ListServices(ctx context.Context, o metav1.ListOptions) (*corev1.ServiceList, error) {
	return a.client.Services("").List(ctx, o)
}

func (a apiServer) WatchServices(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return a.client.Services("").Watch(ctx, o)
}

func (a apiServer) CreateEvent(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	return a.client.Events(e.Namespace).Create(ctx, e, metav1.CreateOptions{})
}

func (a apiServer) PatchEvent(ctx context.Context, namespace, name string, patch []byte) error {
	_, err := a.client.Events(namespace).Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

func (a apiServer) Token(ctx context.Context, namespace, serviceAccount string, tr *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	return a.client.CreateToken(ctx, namespace, serviceAccount, tr)
}

func (a apiServer) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return a.client.ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (a apiServer) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	return a.client.PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (a apiServer) Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	return a.client.PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
}

// runtimeHandler looks a RuntimeClass up.
func (a apiServer) runtimeHandler(ctx context.Context, class string) (string, error) {
	c, err := a.client.RuntimeClasses().Get(ctx, class, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("RuntimeClass %q: %w", class, err)
	}
	return c.Handler, nil
}

var errStandalone = errors.New("this node runs without an API server: static pods can't use objects of it")

// noAPI is the object source of a standalone node.
type noAPI struct{}

var _ objects.Source = noAPI{}

func (noAPI) List(context.Context, objects.Ref) (objects.Object, string, error) {
	return nil, "", errStandalone
}

func (noAPI) Watch(context.Context, objects.Ref, string) (watch.Interface, error) {
	return nil, errStandalone
}

// nodeCertificates asks for certificates of this node's pods, and reads trust bundles.
type nodeCertificates struct {
	apiServer
	uid func() string // of the Node object
}

var (
	_ volume.TrustAPI       = nodeCertificates{}
	_ volume.CertificateAPI = nodeCertificates{}
)

func (a nodeCertificates) ListTrustBundles(ctx context.Context, o metav1.ListOptions) (*certificatesv1.ClusterTrustBundleList, error) {
	return a.client.ClusterTrustBundles().List(ctx, o)
}

func (a nodeCertificates) WatchTrustBundles(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return a.client.ClusterTrustBundles().Watch(ctx, o)
}

func (a nodeCertificates) RequestPodCertificate(ctx context.Context, r *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
	account, err := a.client.ServiceAccounts(r.Namespace).Get(ctx, r.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	r.Spec.ServiceAccountUID, r.Spec.NodeName, r.Spec.NodeUID = account.UID, types.NodeName(a.node), types.UID(a.uid())
	return a.client.PodCertificateRequests(r.Namespace).Create(ctx, r, metav1.CreateOptions{})
}

func (a nodeCertificates) WatchPodCertificate(ctx context.Context, namespace, name string) (watch.Interface, error) {
	return a.client.PodCertificateRequests(namespace).Watch(ctx, metav1.ListOptions{FieldSelector: fields.Set{"spec.nodeName": a.node, "metadata.name": name}.String()})
}
