// Package volume prepares the volumes of this node's pods and keeps their content current: emptyDir, hostPath,
// configMap, secret, downwardAPI, projected, and claims bound to local or hostPath volumes.
//
// Volumes live under <pods>/<uid>/volumes/kubernetes.io~<plugin>/<name>, as kubelets have it; those whose content must
// not reach a disk (secret, projected) stand in one tmpfs for the whole node, at <memory>/<uid>/…: a mount less a
// volume. Everything is found again after a crash by walking these two directories.
//
// Reads:  ConfigMaps, Secrets, claims, persistent volumes, service-account tokens; the host paths that pods name.
// Writes: <pods>/<uid>/volumes, <pods>/<uid>/volume-subpaths, <memory>.
package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/agent/meter"
	"github.com/mote-edge/mote/agent/objects"
)

// API is what volumes need of the API server besides ConfigMaps and Secrets. Not found is the API's own error.
type API interface {
	Token(ctx context.Context, namespace, serviceAccount string, tr *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
	Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
}

// NodeInfo is what downward API files and memory-backed volumes need to know of the node.
type NodeInfo interface {
	Allocatable() corev1.ResourceList
}

// Config says where volumes live and what they are made from.
type Config struct {
	PodsDir string // one directory a pod
	// KeptDir holds copies of ConfigMaps, and of Secrets if KeepSecrets, for the time when the API server is out of reach;
	// empty keeps none.
	KeptDir     string
	KeepSecrets bool
	MemoryDir   string // content that must not reach a disk; made a tmpfs unless it is one
	Objects     objects.Source
	// What follows is nil on a standalone node: tokens, claims, trust bundles and certificates are refused.
	API          API
	Trust        TrustAPI
	Certificates CertificateAPI

	Node NodeInfo
	// Retry, if set, is called when an object that a pod waits for has appeared or changed. It must not block.
	Retry func(types.UID)
	Warn  func(pod *corev1.Pod, reason, message string) // makes an event of the pod; nil makes none
	Tally *meter.Tally                                  // nil counts nothing
	Log   *slog.Logger
}

// Volumes prepares the volumes of one node's pods. It is safe for concurrent use.
type Volumes struct {
	cfg     Config
	objects *objects.Cache
	kept    *objects.Kept // nil: none
	tokens  *tokens
	trust   *trust
	certs   *podCerts
	now     func() time.Time

	mu    sync.Mutex
	pods  map[types.UID]*podVolumes
	dirty map[types.UID]bool
	// refresh says when a pod's tokens want renewal.
	refresh map[types.UID]time.Time
	wake    chan struct{}
	local   map[string]*localUse // by persistent volume
}

// podVolumes is what is known about one pod's volumes. Its lock serialises all work on the pod's directories.
type podVolumes struct {
	mu      sync.Mutex
	gone    bool
	pod     *corev1.Pod
	mounted map[string]mounted // by volume name
	inputs  string             // what the content was made from, see inputsOf
	refresh time.Time          // when a token of the volumes being made wants renewal; zero for never
	waiting time.Time          // since when the API server has been out of reach for this pod; zero if it isn't
	offline bool               // volumes are made without what serves to reach the API server
}

// mounted is a volume that stands.
type mounted struct {
	path     string
	device   string // with volumeMode Block, instead of path
	readOnly bool   // whatever the container asks for
	relabel  bool   // whether the runtime may set the SELinux label
}

// New returns the volumes of a node; it makes the memory-backed directory if need be.
func New(cfg Config) (*Volumes, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if err := os.MkdirAll(cfg.PodsDir, 0o750); err != nil {
		return nil, fmt.Errorf("directory of the pods: %w", err)
	}
	if err := ensureMemoryDir(cfg.MemoryDir); err != nil {
		return nil, err
	}
	v := &Volumes{cfg: cfg, now: time.Now, pods: map[types.UID]*podVolumes{}, dirty: map[types.UID]bool{}, refresh: map[types.UID]time.Time{}, wake: make(chan struct{}, 1), local: map[string]*localUse{}}
	v.tokens = &tokens{api: cfg.API, now: func() time.Time { return v.now() }, held: map[tokenKey]heldToken{}}
	if cfg.KeptDir != "" {
		var err error
		if v.kept, err = objects.NewKept(cfg.KeptDir, cfg.KeepSecrets, cfg.Log); err != nil {
			return nil, err
		}
	}
	v.objects = objects.New(cfg.Objects, v.kept, v.changed)
	v.trust = &trust{api: cfg.Trust, notify: v.dirtied}
	v.certs = &podCerts{api: cfg.Certificates, now: func() time.Time { return v.now() }, notify: v.dirtied, held: map[tokenKey]*podCert{}}
	return v, nil
}

// ConfigMap and Secret read what environments and pull secrets refer to.
func (v *Volumes) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return v.objects.ConfigMap(ctx, namespace, name)
}

// Secret returns a Secret; see ConfigMap.
func (v *Volumes) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return v.objects.Secret(ctx, namespace, name)
}

// Mount makes every volume of the pod ready and keeps its content current until Unmount. It is idempotent, and cheap
// when nothing has changed. The first volume that can't be made ends it with an error that names the volume.
func (v *Volumes) Mount(ctx context.Context, pod *corev1.Pod) error {
	p := v.entry(pod.UID)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return fmt.Errorf("volumes of pod %s/%s have been taken away", pod.Namespace, pod.Name)
	}
	inputs := inputsOf(pod)
	if len(p.mounted) == len(pod.Spec.Volumes) && p.inputs == inputs {
		p.pod = pod
		return nil
	}
	p.pod = pod
	v.kept.Use(pod.UID, allRefsOf(pod))
	v.objects.Follow(pod.UID, refsOf(pod))
	v.trust.use(pod.UID, showsTrust(pod))
	p.offline = false
	err := v.mountAll(ctx, p)
	if p.offline = v.patience(p, err); p.offline {
		err = v.mountAll(ctx, p)
	}
	if err != nil {
		return err
	}
	p.waiting = time.Time{}
	p.inputs = inputs
	return nil
}

func (v *Volumes) mountAll(ctx context.Context, p *podVolumes) error {
	p.refresh = time.Time{}
	for i := range p.pod.Spec.Volumes {
		vol := &p.pod.Spec.Volumes[i]
		_, done := p.mounted[vol.Name]
		begin := time.Now()
		m, err := v.mountOne(ctx, p, vol)
		if !done {
			v.cfg.Tally.Since(meter.VolumeMounts, begin, outcome(err), Plugin(vol))
		}
		if err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", vol.Name, err)
		}
		p.mounted[vol.Name] = m
	}
	v.schedule(p)
	return nil
}

// mountOne makes one volume ready, or brings its content up to date.
func (v *Volumes) mountOne(ctx context.Context, p *podVolumes, vol *corev1.Volume) (mounted, error) {
	switch m, done := p.mounted[vol.Name]; {
	case done && vol.ConfigMap == nil && vol.Secret == nil && vol.DownwardAPI == nil && vol.Projected == nil:
		return m, nil // nothing that changes
	case vol.EmptyDir != nil:
		return v.mountEmptyDir(p, vol)
	case vol.HostPath != nil:
		return mountHostPath(vol.HostPath)
	case vol.ConfigMap != nil, vol.Secret != nil, vol.DownwardAPI != nil, vol.Projected != nil:
		return v.mountProjected(ctx, p, vol)
	case vol.PersistentVolumeClaim != nil:
		return v.mountClaim(ctx, p, vol, vol.PersistentVolumeClaim.ClaimName, vol.PersistentVolumeClaim.ReadOnly)
	case vol.Ephemeral != nil:
		return v.mountClaim(ctx, p, vol, p.pod.Name+"-"+vol.Name, false)
	case vol.Image != nil:
		return mounted{}, nil // the container's creator mounts the image through CRI
	default:
		return mounted{}, fmt.Errorf("no volume plugin matched: volume %q is of a kind that this node doesn't support", vol.Name)
	}
}

// Unmount takes the pod's volumes away. Not found is success.
func (v *Volumes) Unmount(_ context.Context, uid types.UID) error {
	v.objects.Follow(uid, nil)
	v.kept.Use(uid, nil)
	v.tokens.forget(uid)
	v.trust.use(uid, false)
	v.certs.forget(uid)
	v.leaveLocal(uid)
	v.mu.Lock()
	p := v.pods[uid]
	delete(v.pods, uid)
	delete(v.dirty, uid)
	delete(v.refresh, uid)
	v.mu.Unlock()
	if p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.gone = true
	}
	dir := filepath.Join(v.cfg.PodsDir, string(uid))
	err := errors.Join(
		removeTree(filepath.Join(dir, "volume-subpaths")),
		removeTree(filepath.Join(dir, "volumes")),
		removeTree(filepath.Join(v.cfg.MemoryDir, string(uid))),
	)
	if err != nil {
		return fmt.Errorf("UnmountVolume.TearDown failed for pod %s: %w", uid, err)
	}
	_ = os.Remove(dir) // stays while somebody else keeps files in it
	return nil
}

// Pods lists the pods that have volumes on disk or in memory.
func (v *Volumes) Pods() ([]types.UID, error) {
	var uids []types.UID
	add := func(dir, below string) error {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("list the pods' volumes: %w", err)
		}
		for _, e := range entries {
			uid := types.UID(e.Name())
			if _, err := os.Lstat(filepath.Join(dir, e.Name(), below)); err == nil && !slices.Contains(uids, uid) {
				uids = append(uids, uid)
			}
		}
		return nil
	}
	err := errors.Join(add(v.cfg.PodsDir, "volumes"), add(v.cfg.PodsDir, "volume-subpaths"), add(v.cfg.MemoryDir, ""))
	return uids, err
}

// Cleanup takes every pod's volumes and the memory-backed directory away.
func (v *Volumes) Cleanup() error {
	v.close()
	uids, err := v.Pods()
	errs := []error{err}
	for _, uid := range uids {
		errs = append(errs, v.Unmount(context.Background(), uid))
	}
	return errors.Join(append(errs, removeTree(v.cfg.MemoryDir))...)
}

// close ends everything that goes on in the background.
func (v *Volumes) close() {
	v.objects.Close()
	v.trust.close()
	v.certs.forget("")
}

func (v *Volumes) entry(uid types.UID) *podVolumes {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.pods[uid]
	if p == nil {
		p = &podVolumes{mounted: map[string]mounted{}}
		v.pods[uid] = p
	}
	return p
}

// dir is where a volume of a plugin stands.
func (v *Volumes) dir(pod *corev1.Pod, plugin, name string) string {
	return filepath.Join(v.cfg.PodsDir, string(pod.UID), "volumes", "kubernetes.io~"+plugin, name)
}

// Cleanup takes away what any run left of its volumes, without anything running: the uninstaller's way.
func Cleanup(podsDir, memoryDir string) error {
	v := &Volumes{cfg: Config{PodsDir: podsDir, MemoryDir: memoryDir}, objects: objects.New(nil, nil, nil), tokens: &tokens{}, trust: &trust{}, certs: &podCerts{}, pods: map[types.UID]*podVolumes{}}
	return v.Cleanup()
}
