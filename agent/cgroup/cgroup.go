// Package cgroup keeps the cgroup tree above the containers: the QoS tiers and one cgroup a pod, under
// <root>/kubepods. It writes the kernel's files directly, for cgroup v1 (also with an empty v2 mount beside it) and v2.
// The containers' own cgroups, below the pods', are the runtime's.
//
// Reads:  /proc/self/mountinfo, the cgroup file systems.
// Writes: <root>/kubepods and the pods' cgroups in it.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Kubepods is the cgroup that holds every pod.
const Kubepods = "kubepods"

// Config says where the tree stands and what is enforced.
type Config struct {
	Root     string // the cgroup above kubepods, "/" for the hierarchies' own root
	CPUQuota bool   // whether CPU limits become CFS quotas
	PodPIDs  int64  // pids.max of a pod; 0 or less for no limit
	// NoQuota tells which pods get no CPU quota whatever their limits: those with CPUs of their own. Nil: none.
	NoQuota   func(types.UID) bool
	CPUPeriod uint64 // CFS period in microseconds; 0 means 100,000
	// Throttle and Protect are as in criconfig.MemoryQoS, for pods as a whole.
	Throttle float64
	Protect  bool
}

// Tree is the cgroup tree of one node. It is safe for concurrent use.
type Tree struct {
	cfg  Config
	hier hierarchies
	// mu guards what follows, and the tiers' own files. Pods' cgroups are made and removed without it: the removal of one
	// that doesn't want to die must not keep others from starting.
	mu    sync.Mutex
	tiers bool
	made  map[types.UID]made // what was made last, so that it isn't made twice in a pod's start
	// making has those that are being made: closed when they are.
	making map[types.UID]chan struct{}
	// burstable remembers the CPU requests of the burstable pods, in thousandths: their sum weighs the tier.
	burstable map[types.UID]int64
	protected map[types.UID]Protection // what is kept for pods, where that is configured
}

// made is a pod's cgroup as it was left.
type made struct {
	path   string
	limits Limits
}

// New finds the cgroup file systems. It changes nothing.
func New(cfg Config) (*Tree, error) {
	if !strings.HasPrefix(cfg.Root, "/") {
		return nil, fmt.Errorf("--cgroup-root %q is not absolute: give one that begins with /", cfg.Root)
	}
	if cfg.CPUPeriod == 0 {
		cfg.CPUPeriod = 100000
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the cgroup file systems: %w", err)
	}
	h, err := parseHierarchies(string(mounts))
	if err != nil {
		return nil, err
	}
	return newTree(cfg, h), nil
}

func newTree(cfg Config, h hierarchies) *Tree {
	return &Tree{cfg: cfg, hier: h, burstable: map[types.UID]int64{}, made: map[types.UID]made{}, making: map[types.UID]chan struct{}{}}
}

// V2 tells whether the node runs pure cgroup v2.
func (t *Tree) V2() bool { return t.hier.v2 }

// Root is the path of kubepods inside a hierarchy.
func (t *Tree) Root() string { return path.Join(t.cfg.Root, Kubepods) }

// tierPath is the cgroup of a QoS tier; guaranteed pods sit in kubepods itself.
func (t *Tree) tierPath(qos corev1.PodQOSClass) string {
	switch qos {
	case corev1.PodQOSBurstable:
		return path.Join(t.Root(), "burstable")
	case corev1.PodQOSBestEffort:
		return path.Join(t.Root(), "besteffort")
	default:
		return t.Root()
	}
}

// PodPath is a pod's cgroup path inside a hierarchy: what CRI calls the cgroup parent.
func (t *Tree) PodPath(pod *corev1.Pod) string {
	return path.Join(t.tierPath(QOSClass(pod)), "pod"+string(pod.UID))
}

// EnsureTiers creates kubepods and the tiers and gives them their static limits. Idempotent.
func (t *Tree) EnsureTiers() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ensureTiers()
}

func (t *Tree) ensureTiers() error {
	if t.tiers {
		return nil
	}
	for _, qos := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		if err := t.hier.create(t.tierPath(qos)); err != nil {
			return fmt.Errorf("cgroup %s: %w", t.tierPath(qos), err)
		}
	}
	if err := t.hier.apply(t.tierPath(corev1.PodQOSBestEffort), Limits{CPUShares: minShares}); err != nil {
		return err
	}
	t.tiers = true
	return nil
}

// Ensure creates a pod's cgroup, or brings an existing one's limits up to date, and returns its path for CRI's
// cgroup_parent. Idempotent.
func (t *Tree) Ensure(pod *corev1.Pod) (string, error) {
	p, limits := t.PodPath(pod), PodLimits(pod, t.cfg)
	was := t.begin(pod.UID)
	defer t.end(pod.UID)
	if was.path != p || !reflect.DeepEqual(was.limits, limits) || !t.hier.exists(p) {
		if err := t.ensure(p, limits); err != nil {
			return "", fmt.Errorf("cgroup of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.made[pod.UID] = made{p, limits}
	if keep := limits.Protection; keep != nil && t.hier.v2 && t.cfg.Protect && t.protected[pod.UID] != *keep {
		if t.protected == nil {
			t.protected = map[types.UID]Protection{}
		}
		t.protected[pod.UID] = *keep
		if err := t.protectTiers(); err != nil {
			return "", fmt.Errorf("memory kept for the pods: %w", err)
		}
	}
	if QOSClass(pod) == corev1.PodQOSBurstable {
		if milli := cpuRequest(pod); t.burstable[pod.UID] != milli {
			t.burstable[pod.UID] = milli
			return p, t.shareTier()
		}
	}
	return p, nil
}

// begin waits until nobody else ensures the pod's cgroup, and returns what was made last: a pod's volumes and its sandbox are
// begun at the same time, and both need it. Its end must follow.
func (t *Tree) begin(uid types.UID) made {
	t.mu.Lock()
	for t.making[uid] != nil {
		other := t.making[uid]
		t.mu.Unlock()
		<-other
		t.mu.Lock()
	}
	defer t.mu.Unlock()
	t.making[uid] = make(chan struct{})
	return t.made[uid]
}

func (t *Tree) end(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.making[uid])
	delete(t.making, uid)
}

func (t *Tree) ensure(p string, l Limits) error {
	for try := range 2 {
		err := t.EnsureTiers()
		if err == nil {
			err = t.hier.create(p)
		}
		if err == nil {
			err = t.hier.apply(p, l)
		}
		if err == nil || try == 1 || !errors.Is(err, os.ErrNotExist) {
			return err
		}
		t.mu.Lock()
		t.tiers = false // somebody removed the tiers: make them again
		t.mu.Unlock()
	}
	return nil
}

// shareTier gives the burstable tier the CPU weight of its pods' requests, so that the tiers compete fairly.
func (t *Tree) shareTier() error {
	var milli int64
	for _, m := range t.burstable {
		milli += m
	}
	return t.hier.apply(t.tierPath(corev1.PodQOSBurstable), Limits{CPUShares: Shares(milli)})
}

// Pods lists the pods that have a cgroup, those that a crash left behind among them.
func (t *Tree) Pods() ([]types.UID, error) {
	found := map[types.UID]bool{}
	for _, mount := range t.hier.all() {
		for _, qos := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
			entries, err := os.ReadDir(filepath.Join(mount, t.tierPath(qos)))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("list pod cgroups: %w", err)
			}
			for _, e := range entries {
				if uid, ok := strings.CutPrefix(e.Name(), "pod"); ok && e.IsDir() {
					found[types.UID(uid)] = true
				}
			}
		}
	}
	uids := make([]types.UID, 0, len(found))
	for uid := range found {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	return uids, nil
}

// Remove kills what is left in a pod's cgroup and removes it from every hierarchy, whichever tier it is in.
// Removing a cgroup that isn't there is success.
func (t *Tree) Remove(uid types.UID) error {
	var errs []error
	for _, qos := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		errs = append(errs, t.hier.remove(path.Join(t.tierPath(qos), "pod"+string(uid))))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove cgroup of pod %s: %w", uid, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.made, uid)
	if _, ok := t.protected[uid]; ok {
		delete(t.protected, uid)
		if err := t.protectTiers(); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("memory kept for the pods: %w", err)
		}
	}
	if _, ok := t.burstable[uid]; ok {
		delete(t.burstable, uid)
		if err := t.shareTier(); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Cleanup removes kubepods with everything in it, killing what still runs there.
func (t *Tree) Cleanup() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tiers = false
	if err := t.hier.remove(t.Root()); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", t.Root(), err)
	}
	return nil
}

// parseUint reads a kernel file that holds one number; "max" is the largest one.
func parseUint(s string) (uint64, error) {
	if s = strings.TrimSpace(s); s == "max" {
		return ^uint64(0), nil
	}
	return strconv.ParseUint(s, 10, 64)
}
