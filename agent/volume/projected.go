package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/mote-edge/mote/agent/downward"
)

// file is one file of a projected volume.
type file struct {
	data []byte
	mode os.FileMode
	uid  int // -1 for root
}

// mountProjected makes a volume from the API's objects, or brings it up to date: configMap, secret, downwardAPI and
// projected are one mechanism with different sources.
func (v *Volumes) mountProjected(ctx context.Context, p *podVolumes, vol *corev1.Volume) (mounted, error) {
	m := mounted{path: v.projectedDir(p.pod, vol), readOnly: true, relabel: true}
	files, err := v.collect(ctx, p, vol)
	if _, old := os.Lstat(filepath.Join(m.path, "..data")); old == nil && outOfReach(err) {
		v.later(p)
		return m, nil // an earlier run has filled it
	}
	if err != nil {
		return mounted{}, err
	}
	for name := range files {
		if err := checkName(name); err != nil {
			return mounted{}, err
		}
	}
	if err := os.MkdirAll(m.path, 0o755); err != nil {
		return m, err
	}
	return m, writeAtomically(m.path, files, fsGroupOf(p.pod))
}

// projectedDir keeps what is secret off the disks.
func (v *Volumes) projectedDir(pod *corev1.Pod, vol *corev1.Volume) string {
	switch {
	case vol.Secret != nil:
		return filepath.Join(v.cfg.MemoryDir, string(pod.UID), "kubernetes.io~secret", vol.Name)
	case vol.Projected != nil:
		return filepath.Join(v.cfg.MemoryDir, string(pod.UID), "kubernetes.io~projected", vol.Name)
	case vol.DownwardAPI != nil:
		return v.dir(pod, "downward-api", vol.Name)
	default:
		return v.dir(pod, "configmap", vol.Name)
	}
}

// collect gathers the files of a volume.
func (v *Volumes) collect(ctx context.Context, p *podVolumes, vol *corev1.Volume) (map[string]file, error) {
	c := &collector{Volumes: v, ctx: ctx, p: p, vol: vol.Name, files: map[string]file{}, mode: 0o644}
	mode := func(m *int32) {
		if m != nil {
			c.mode = os.FileMode(*m)
		}
	}
	switch {
	case vol.ConfigMap != nil:
		mode(vol.ConfigMap.DefaultMode)
		return c.files, c.configMap(vol.ConfigMap.Name, vol.ConfigMap.Items, vol.ConfigMap.Optional)
	case vol.Secret != nil:
		mode(vol.Secret.DefaultMode)
		return c.files, c.secret(vol.Secret.SecretName, vol.Secret.Items, vol.Secret.Optional)
	case vol.DownwardAPI != nil:
		mode(vol.DownwardAPI.DefaultMode)
		return c.files, c.downward(vol.DownwardAPI.Items)
	}
	mode(vol.Projected.DefaultMode)
	var errs []error
	for i, s := range vol.Projected.Sources {
		switch {
		case s.ConfigMap != nil:
			errs = append(errs, c.configMap(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional))
		case s.Secret != nil:
			errs = append(errs, c.secret(s.Secret.Name, s.Secret.Items, s.Secret.Optional))
		case s.DownwardAPI != nil:
			errs = append(errs, c.downward(s.DownwardAPI.Items))
		case s.ServiceAccountToken != nil:
			errs = append(errs, c.token(s.ServiceAccountToken))
		case s.ClusterTrustBundle != nil:
			errs = append(errs, c.anchors(s.ClusterTrustBundle))
		case s.PodCertificate != nil:
			errs = append(errs, c.certificate(i, s.PodCertificate))
		}
	}
	return c.files, errors.Join(errs...)
}

// collector gathers files from several sources into one volume; a later source wins.
type collector struct {
	*Volumes
	ctx   context.Context // of one collect call
	p     *podVolumes
	vol   string
	mode  os.FileMode
	files map[string]file
}

func (c *collector) configMap(name string, items []corev1.KeyToPath, optional *bool) error {
	cm, err := c.ConfigMap(c.ctx, c.p.pod.Namespace, name)
	if c.p.offline && name == rootCA && outOfReach(err) {
		c.later(c.p)
		return nil
	}
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil
	}
	if err != nil {
		return err
	}
	get := func(key string) ([]byte, bool) {
		if s, ok := cm.Data[key]; ok {
			return []byte(s), true
		}
		b, ok := cm.BinaryData[key]
		return b, ok
	}
	if items == nil {
		for key := range cm.Data {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
		for key := range cm.BinaryData {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
	}
	return c.items(items, get, isTrue(optional), "configmap references non-existent config key: ")
}

func (c *collector) secret(name string, items []corev1.KeyToPath, optional *bool) error {
	s, err := c.Secret(c.ctx, c.p.pod.Namespace, name)
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil
	}
	if err != nil {
		return err
	}
	if items == nil {
		for key := range s.Data {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
	}
	get := func(key string) ([]byte, bool) { b, ok := s.Data[key]; return b, ok }
	return c.items(items, get, isTrue(optional), "references non-existent secret key: ")
}

func (c *collector) items(items []corev1.KeyToPath, get func(string) ([]byte, bool), optional bool, missing string) error {
	for _, item := range items {
		data, ok := get(item.Key)
		switch {
		case ok:
			c.add(item.Path, data, item.Mode)
		case !optional:
			return errors.New(missing + item.Key)
		}
	}
	return nil
}

func (c *collector) add(name string, data []byte, mode *int32) {
	f := file{data: data, mode: c.mode, uid: -1}
	if mode != nil {
		f.mode = os.FileMode(*mode)
	}
	c.files[path.Clean(name)] = f
}

func (c *collector) downward(items []corev1.DownwardAPIVolumeFile) error {
	for _, item := range items {
		switch {
		case item.FieldRef != nil:
			value, ok := downward.Metadata(c.p.pod, item.FieldRef.FieldPath)
			if !ok {
				return fmt.Errorf("unsupported fieldPath: %s", item.FieldRef.FieldPath)
			}
			c.add(item.Path, []byte(value), item.Mode)
		case item.ResourceFieldRef != nil:
			container, err := downward.Container(c.p.pod, item.ResourceFieldRef.ContainerName)
			if err != nil {
				return err
			}
			var allocatable corev1.ResourceList
			if c.cfg.Node != nil {
				allocatable = c.cfg.Node.Allocatable()
			}
			value, err := downward.Resource(item.ResourceFieldRef, c.p.pod, container, allocatable)
			if err != nil {
				return err
			}
			c.add(item.Path, []byte(value), item.Mode)
		}
	}
	return nil
}

// token adds a service-account token, and notes when the volume must be made again for it.
func (c *collector) token(s *corev1.ServiceAccountTokenProjection) error {
	token, refresh, err := c.tokens.get(c.ctx, c.p.pod, c.vol+"/"+s.Path, s)
	if c.p.offline && outOfReach(err) {
		c.later(c.p)
		return nil
	}
	if err != nil {
		return err
	}
	c.refreshAt(refresh)
	c.private(s.Path, []byte(token))
	return nil
}

func (c *collector) refreshAt(at time.Time) {
	if c.p.refresh.IsZero() || at.Before(c.p.refresh) {
		c.p.refresh = at
	}
}

// private adds a file for the pod's own user or group alone, if it has one.
func (c *collector) private(name string, data []byte) {
	f := file{data: data, mode: c.mode, uid: fsUserOf(c.p.pod)}
	if f.uid >= 0 || fsGroupOf(c.p.pod) >= 0 {
		f.mode = 0o600 // the group's read permission comes with fsGroup
	}
	c.files[path.Clean(name)] = f
}

// anchors adds the certificates of trust bundles.
func (c *collector) anchors(s *corev1.ClusterTrustBundleProjection) error {
	pem, err := c.trust.anchors(c.ctx, s)
	if err != nil {
		return err
	}
	c.private(s.Path, pem)
	return nil
}

// certificate adds a key and its certificates, in the files that are asked for.
func (c *collector) certificate(index int, s *corev1.PodCertificateProjection) error {
	key, chain, refresh, err := c.certs.get(c.p.pod, fmt.Sprintf("%s/%d", c.vol, index), s)
	if err != nil {
		return err
	}
	c.refreshAt(refresh)
	if s.CredentialBundlePath != "" {
		c.private(s.CredentialBundlePath, slices.Concat(key, chain))
	}
	if s.KeyPath != "" {
		c.private(s.KeyPath, key)
	}
	if s.CertificateChainPath != "" {
		c.private(s.CertificateChainPath, chain)
	}
	return nil
}

func isTrue(b *bool) bool { return b != nil && *b }

func fsGroupOf(pod *corev1.Pod) int {
	if sc := pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		return int(*sc.FSGroup)
	}
	return -1
}

// fsUserOf is the one user that all containers of the pod run as, or -1.
func fsUserOf(pod *corev1.Pod) int {
	uid := -1
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			var user *int64
			if sc := pod.Spec.SecurityContext; sc != nil {
				user = sc.RunAsUser
			}
			if sc := list[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
				user = sc.RunAsUser
			}
			if user == nil || uid >= 0 && int64(uid) != *user {
				return -1
			}
			uid = int(*user)
		}
	}
	return uid
}

// checkName refuses names that would leave the volume or clash with its own bookkeeping.
func checkName(name string) error {
	switch {
	case name == "" || name == ".":
		return errors.New("invalid path: must not be empty")
	case path.IsAbs(name):
		return fmt.Errorf("invalid path: must be relative path: %s", name)
	case len(name) > 4095:
		return errors.New("invalid path: must be less than or equal to 4096 characters")
	case strings.HasPrefix(name, ".."):
		return fmt.Errorf("invalid path: must not start with '..': %s", name)
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return fmt.Errorf("invalid path: must not contain '..': %s", name)
		}
		if len(part) > 255 {
			return fmt.Errorf("invalid path: %s... is longer than 255 characters", part[:40])
		}
	}
	return nil
}

// refreshAt is when a token is to be renewed: after four fifths of its life, and after a day at most.
func refreshAt(issued, expires time.Time) time.Time {
	life := expires.Sub(issued)
	return issued.Add(min(life*4/5, 24*time.Hour))
}
