package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// mountEmptyDir makes a directory that lives as long as the pod: on disk, in memory or on huge pages. It gets its mode
// and group before it gets its name (or its mount), so that one that exists is complete, and what the pod has made of
// it since is left alone.
func (v *Volumes) mountEmptyDir(p *podVolumes, vol *corev1.Volume) (mounted, error) {
	dir := v.dir(p.pod, "empty-dir", vol.Name)
	out := mounted{path: dir, relabel: true}
	options, fstype, err := v.emptyDirMount(p.pod, vol.EmptyDir)
	if err != nil {
		return out, err
	}
	mode, gid := os.FileMode(0o777), fsGroupOf(p.pod)
	if gid >= 0 {
		mode |= os.ModeSetgid
	}
	if fstype == "" {
		return out, makeWhole(dir, mode, gid)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return out, err
	}
	if is, err := isMount(dir); err != nil || is {
		return out, err
	}
	bits := 0o777
	if fstype == "tmpfs" {
		bits |= unix.S_ISVTX // as tmpfs has it unless told otherwise
	}
	if gid >= 0 {
		bits |= unix.S_ISGID
		options = append(options, "gid="+strconv.Itoa(gid))
	}
	options = append(options, fmt.Sprintf("mode=%o", bits))
	if err := mountMemory(fstype, dir, 0, strings.Join(options, ",")); err != nil {
		return out, fmt.Errorf("mount %s on %s: %w", fstype, dir, err)
	}
	return out, nil
}

// makeWhole makes a directory that appears with its mode and group.
func makeWhole(dir string, mode os.FileMode, gid int) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return err
	}
	next := filepath.Join(filepath.Dir(dir), ".new-"+filepath.Base(dir)) // no volume's name begins with a dot
	if err := removeTree(next); err != nil {
		return err
	}
	if err := os.Mkdir(next, 0o700); err != nil {
		return err
	}
	if gid >= 0 {
		if err := os.Lchown(next, -1, gid); err != nil {
			return err
		}
	}
	if err := os.Chmod(next, mode); err != nil { // after chown, which clears the set-id bit
		return err
	}
	return os.Rename(next, dir)
}

// emptyDirMount says which file system an emptyDir needs, "" for none of its own.
func (v *Volumes) emptyDirMount(pod *corev1.Pod, e *corev1.EmptyDirVolumeSource) (options []string, fstype string, err error) {
	switch {
	case e.Medium == corev1.StorageMediumDefault:
		return nil, "", nil
	case e.Medium == corev1.StorageMediumMemory:
		if size := v.memorySize(pod, e); size > 0 {
			return []string{fmt.Sprintf("size=%d", size)}, "tmpfs", nil
		}
		return nil, "tmpfs", nil
	case strings.HasPrefix(string(e.Medium), string(corev1.StorageMediumHugePages)):
		page, err := hugePageSize(pod, e.Medium)
		if err != nil {
			return nil, "", err
		}
		return []string{fmt.Sprintf("pagesize=%d", page)}, "hugetlbfs", nil
	}
	return nil, "", fmt.Errorf("emptyDir medium %q is unknown", e.Medium)
}

// memorySize bounds a memory-backed volume: by its own limit, the pod's memory limit, and what the node can give.
func (v *Volumes) memorySize(pod *corev1.Pod, e *corev1.EmptyDirVolumeSource) int64 {
	var size int64
	bound := func(q *resource.Quantity) {
		if q != nil && q.Value() > 0 && (size == 0 || q.Value() < size) {
			size = q.Value()
		}
	}
	if v.cfg.Node != nil {
		allocatable := v.cfg.Node.Allocatable()
		bound(allocatable.Memory())
	}
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	limited := true
	for _, c := range pod.Spec.Containers {
		limited = limited && !c.Resources.Limits.Memory().IsZero()
	}
	if limited {
		bound(limits.Memory())
	}
	bound(e.SizeLimit)
	return size
}

var errHugePages = errors.New("emptyDir on huge pages")

// hugePageSize is the page size that the medium names, or that the pod's one huge page resource has.
func hugePageSize(pod *corev1.Pod, medium corev1.StorageMedium) (int64, error) {
	if size, ok := strings.CutPrefix(string(medium), string(corev1.StorageMediumHugePages)+"-"); ok {
		q, err := resource.ParseQuantity(size)
		if err != nil {
			return 0, fmt.Errorf("%w: page size of medium %q: %w", errHugePages, medium, err)
		}
		return q.Value(), nil
	}
	var found int64
	for _, c := range append(append([]corev1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
		for name := range c.Resources.Requests {
			size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
			if !ok {
				continue
			}
			q, err := resource.ParseQuantity(size)
			if err != nil {
				return 0, fmt.Errorf("%w: resource %s: %w", errHugePages, name, err)
			}
			if found != 0 && found != q.Value() {
				return 0, fmt.Errorf("%w: the pod uses multiple huge page sizes in a single pod: name one with medium HugePages-<size>", errHugePages)
			}
			found = q.Value()
		}
	}
	if found == 0 {
		return 0, fmt.Errorf("%w: the pod requests no huge pages", errHugePages)
	}
	return found, nil
}
