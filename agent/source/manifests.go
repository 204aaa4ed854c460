package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// settle lets an editor finish its writes and renames before the directory is read.
const settle = 100 * time.Millisecond

// maxManifest bounds one manifest file.
const maxManifest = 10 << 20

// RunManifests follows the manifest directory until ctx ends. It makes the directory if there is none.
func (p *Pods) RunManifests(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("manifest directory: %w", err)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch manifest directory: %w (raise fs.inotify.max_user_instances)", err)
	}
	defer func() { _ = w.Close() }()
	if err := w.Add(dir); err != nil {
		return fmt.Errorf("watch manifest directory %s: %w", dir, err)
	}
	var soon <-chan time.Time
	p.readManifests(dir)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events:
			soon = time.After(settle)
		case <-w.Errors: // an overflow of the queue: read everything, as for any event
			soon = time.After(settle)
		case <-soon:
			soon = nil
			p.readManifests(dir)
		}
	}
}

// readManifests reads the whole directory. A bad file is logged and left out; a pod that was read from it before goes.
func (p *Pods) readManifests(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		p.log.Error("manifest directory not read: static pods stay as they are", "dir", dir, "err", err)
		return
	}
	pods := map[string]*corev1.Pod{}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		pod, err := readManifest(path, p.node)
		if err != nil {
			p.log.Error("manifest left out: mend or remove the file", "file", path, "err", err)
			continue
		}
		if pods[key(pod)] != nil {
			p.log.Error("manifest left out: another file has a pod of this name", "file", path, "pod", key(pod))
			continue
		}
		pods[key(pod)] = pod
	}
	p.setStatic(pods)
}

func readManifest(path, node string) (*corev1.Pod, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxManifest {
		return nil, fmt.Errorf("not a regular file of at most %d bytes", maxManifest)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Decode(b, path, node)
}

// Decode makes a static pod of a manifest. Its UID follows from content, path and node, so that the same manifest is the
// same pod after a restart, and a changed one is another.
func Decode(b []byte, path, node string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	if err := yaml.UnmarshalStrict(b, pod); err != nil {
		return nil, fmt.Errorf("not a pod: %w", err)
	}
	if pod.Kind != "Pod" || pod.APIVersion != "v1" {
		return nil, fmt.Errorf("apiVersion %q, kind %q: a manifest holds a v1 Pod", pod.APIVersion, pod.Kind)
	}
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "%s\x00%s\x00", node, path)
	_, _ = sum.Write(b)
	pod.UID = types.UID(fmt.Sprintf("%x", sum.Sum(nil)[:16]))
	if pod.Namespace == "" {
		pod.Namespace = "default"
	}
	pod.Name += "-" + node
	pod.Spec.NodeName = node
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[AnnotationHash] = string(pod.UID)
	pod.Annotations[AnnotationSource] = "file"
	pod.Annotations[AnnotationSeen] = time.Now().Format(time.RFC3339Nano)
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
	setDefaults(pod)
	return pod, check(pod)
}

// check refuses what the API server would, as far as a node can be hurt or confused by it.
func check(pod *corev1.Pod) error {
	var errs []error
	if msgs := validation.IsDNS1123Subdomain(pod.Name); len(msgs) > 0 {
		errs = append(errs, fmt.Errorf("metadata.name %q: %s", pod.Name, msgs[0]))
	}
	if msgs := validation.IsDNS1123Label(pod.Namespace); len(msgs) > 0 {
		errs = append(errs, fmt.Errorf("metadata.namespace %q: %s", pod.Namespace, msgs[0]))
	}
	if len(pod.Spec.Containers) == 0 {
		errs = append(errs, errors.New("spec.containers: required"))
	}
	if len(pod.Spec.EphemeralContainers) > 0 {
		errs = append(errs, errors.New("spec.ephemeralContainers: static pods can't have them"))
	}
	if pod.Spec.ServiceAccountName != "" {
		errs = append(errs, errors.New("spec.serviceAccountName: static pods can't use service accounts"))
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil || v.ConfigMap != nil || v.PersistentVolumeClaim != nil {
			errs = append(errs, fmt.Errorf("spec.volumes[%s]: static pods can't refer to API objects", v.Name))
		}
	}
	seen := map[string]bool{}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			if msgs := validation.IsDNS1123Label(c.Name); len(msgs) > 0 {
				errs = append(errs, fmt.Errorf("container name %q: %s", c.Name, msgs[0]))
			}
			if seen[c.Name] {
				errs = append(errs, fmt.Errorf("container name %q: used twice", c.Name))
			}
			seen[c.Name] = true
			if c.Image == "" {
				errs = append(errs, fmt.Errorf("container %q: image is required", c.Name))
			}
		}
	}
	return errors.Join(errs...)
}
