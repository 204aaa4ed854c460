package podworker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/agent/action"
	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/criconfig"
	"github.com/mote-edge/mote/agent/image"
	"github.com/mote-edge/mote/agent/meter"
	"github.com/mote-edge/mote/agent/probe"
)

// Config are the plain values that pods are made with.
type Config struct {
	PodLogDir      string // /var/log/pods
	PodsDir        string // <data>/agent/pods
	HostsDir       string // the pods' /etc/hosts, in the run directory: written anew for every start, they needn't outlive a boot
	SeccompRoot    string // where localhost profiles are
	ResolvConf     string
	ClusterDNS     []string
	ClusterDomain  string
	MemoryBytes    int64 // the node's capacity, for OOM scores
	CgroupV2       bool
	MaxPods        int
	AllowedSysctls []string      // unsafe ones, exact or with a final *
	AppArmor       bool          // the host enforces its profiles
	MaxBackoff     time.Duration // between restarts of a container; 0 means five minutes
	Tuning         criconfig.Tuning
}

// Statuses takes the statuses that workers work out. Calls don't block.
type Statuses interface {
	Set(pod *corev1.Pod, st *corev1.PodStatus)
	// Remove deletes the object, after its last status is written.
	Remove(pod *corev1.Pod)
	Forget(uid types.UID)
}

// Events records events of pods. Calls don't block.
type Events interface {
	Pod(pod *corev1.Pod, container, kind, reason, message string)
}

// Services lists the services of a namespace, and default/kubernetes; it blocks until they are known, or ctx ends.
type Services interface {
	Services(ctx context.Context, namespace string) ([]*corev1.Service, error)
}

// Deps are what the workers work with.
type Deps struct {
	CRI      *cri.Client
	Images   *image.Puller
	Volumes  VolumeMounter
	Cgroups  PodCgroups
	Node     NodeInfo
	Objects  Objects
	Services Services
	Statuses Statuses
	Events   Events
	// Resources gives devices, CPUs of their own, claims; nil gives none.
	Resources Resources
	// Users gives user namespaces; nil refuses pods with hostUsers: false.
	Users UserNamespaces
	// Handler returns the runtime handler of a RuntimeClass.
	Handler func(ctx context.Context, class string) (string, error)
	// Refuse says why the node takes no such pod at present (it is short of something, or shuts down); "" if it does. It
	// must not call the manager. Nil refuses nothing.
	Refuse func(pod *corev1.Pod) (reason, message string)
	// Gone is told, without locks held, of every pod of which nothing is left on the node. Nil tells nobody.
	Gone func(types.UID)
	// Runtime is the runtime's name: the scheme of container IDs in statuses.
	Runtime string
	Tally   *meter.Tally // nil counts nothing
	Log     *slog.Logger
}

// Desired is a pod as its source wants it.
type Desired struct {
	Pod *corev1.Pod
	// Static: from a manifest on the node. Object is then its mirror in the API server, or nil; else it is Pod.
	Static bool
	Mirror *corev1.Pod
}

// settle is how long a changed spec is left alone before containers are restarted for it.
const settle = time.Second

// Manager holds the workers of a node's pods.
type Manager struct {
	ctx                     context.Context
	cfg                     Config
	cri                     *cri.Client
	cache                   *cri.Cache
	images                  *image.Puller
	volumes                 VolumeMounter
	cgroups                 PodCgroups
	node                    NodeInfo
	objects                 Objects
	services                Services
	statuses                Statuses
	events                  Events
	lookup                  func(context.Context, string) (string, error)
	refuse                  func(*corev1.Pod) (reason, message string)
	preemptions, rejections map[string]int // guarded by mu: by resource, by reason
	gone                    func(types.UID)
	runtime                 string
	tally                   *meter.Tally
	log                     *slog.Logger
	now                     func() time.Time
	run                     *action.Runner
	users                   UserNamespaces
	userPods                userPods
	probes                  *probe.Set
	// resources may be nil.
	resources Resources
	resizeMu  sync.Mutex // one decision about a resize at a time
	repins

	dnsMu   sync.Mutex
	dnsTime time.Time
	dns     criconfig.DNS

	mu      sync.Mutex
	workers map[types.UID]*worker
	synced  bool // both the sources and the runtime have been listed
}

// New returns a manager whose workers end with ctx. Nothing runs before Set.
func New(ctx context.Context, cfg Config, d Deps) *Manager {
	m := &Manager{
		ctx: ctx, cfg: cfg, cri: d.CRI, images: d.Images, volumes: d.Volumes, cgroups: d.Cgroups, node: d.Node, objects: d.Objects,
		services: d.Services, statuses: d.Statuses, events: d.Events, lookup: d.Handler, refuse: d.Refuse, gone: d.Gone, runtime: d.Runtime, tally: d.Tally, preemptions: map[string]int{}, rejections: map[string]int{}, log: d.Log, now: time.Now, users: d.Users, resources: d.Resources,
		workers: map[types.UID]*worker{},
	}
	m.run = &action.Runner{Exec: d.CRI, UserAgent: "kube-probe/1.37"}
	m.cache = cri.NewCache(m.changed)
	m.probes = probe.New(ctx, m.run, m.verdict)
	return m
}

// Run follows the runtime until ctx ends. synced is called whenever the runtime has been listed.
func (m *Manager) Run(ctx context.Context, synced func()) error {
	return m.cri.Watch(ctx, m.cache, m.log, synced)
}

// Set makes d the desired state of its pod: a new one is admitted and begins; a known one changes.
func (m *Manager) Set(d Desired) {
	m.mu.Lock()
	w, known := m.workers[d.Pod.UID]
	if !known {
		w = &worker{
			m: m, uid: d.Pod.UID, pod: d.Pod, killing: map[string]*kill{}, containers: map[string]*containerState{}, messages: map[string]string{},
		}
		if !d.Static {
			w.last = d.Pod.Status.DeepCopy()
		} else if d.Mirror != nil {
			w.last = &corev1.PodStatus{StartTime: d.Mirror.Status.StartTime}
		}
		// An agent before this one may have left something of it, also of a pod that has ended: only looking tells.
		w.held = !m.synced
		if w.fresh = m.isNew(d.Pod); w.fresh {
			w.verdict = m.admit(d.Pod)
		}
		m.workers[d.Pod.UID] = w
	}
	m.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone { // it left and came back (a manifest was put back): what was begun is finished first
		w.next = &d
		return
	}
	if !known && w.verdict != nil {
		m.event(d.Pod, "", corev1.EventTypeWarning, w.verdict.Reason, w.verdict.Message)
		w.end(0)
	}
	if !known && w.verdict == nil && w.fresh {
		w.beginAdmission()
	}
	old := w.pod
	w.pod, w.static, w.object = d.Pod, d.Static, d.Pod
	if d.Static {
		w.object = d.Mirror
	}
	if known && old.ResourceVersion != d.Pod.ResourceVersion && (old.Generation != d.Pod.Generation || metadataChanged(old, d.Pod)) {
		w.refreshVolumes()
		if old.Generation != d.Pod.Generation {
			w.settled = m.now().Add(settle)
		}
	}
	w.kickLocked()
}

func metadataChanged(a, b *corev1.Pod) bool {
	return fmt.Sprint(a.Labels, a.Annotations) != fmt.Sprint(b.Labels, b.Annotations) // maps print sorted
}

// refreshVolumes mounts again: downward API files follow the pod's labels and annotations. The lock is held.
func (w *worker) refreshVolumes() {
	if !w.prepared || w.preparing || w.ending {
		return
	}
	pod := w.pod
	go func() {
		ctx, cancel := context.WithTimeout(w.m.ctx, callTimeout)
		defer cancel()
		w.mu.Lock()
		skip := w.releasing || !w.prepared
		w.mu.Unlock()
		if skip {
			return
		}
		if err := w.m.volumes.Mount(ctx, pod); err != nil {
			w.m.event(pod, "", corev1.EventTypeWarning, "FailedMount", err.Error())
		}
	}()
}

// Remove says that the pod is no longer in its source: it is ended, and forgotten with all its traces.
func (m *Manager) Remove(uid types.UID) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if m.statuses != nil {
		m.statuses.Forget(uid)
	}
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone, w.object, w.next = true, nil, nil
	if w.static || !w.ending {
		w.end(w.specGrace())
	}
	w.kickLocked()
}

// End ends a pod by the node's own decision: an eviction, a shutdown. It reports whether there is such a pod.
func (m *Manager) End(uid types.UID, v Verdict, grace time.Duration) bool {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.condemn(v)
	w.end(grace)
	w.kickLocked()
	return true
}

// Retry says that something a pod waits for has changed: its failed steps are tried again at once.
func (m *Manager) Retry(uid types.UID) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prepareAt, w.sandboxAt = time.Time{}, time.Time{}
	for _, c := range w.containers {
		if c.failure != nil && c.failure.Reason == createConfigError {
			c.retryAt = time.Time{}
		}
	}
	w.kickLocked()
}

// RetryAll is Retry for every pod: the network has come up, the node's addresses are known.
func (m *Manager) RetryAll() {
	for _, w := range m.all() {
		m.Retry(w.uid)
	}
}

func (m *Manager) all() []*worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*worker, 0, len(m.workers))
	for _, w := range m.workers {
		out = append(out, w)
	}
	return out
}

// Synced says that every source has delivered its pods and the runtime was listed: what is on the node and in no source
// is taken down.
func (m *Manager) Synced() {
	m.mu.Lock()
	m.synced = true
	m.mu.Unlock()
	for _, p := range m.cache.All() {
		m.orphan(p)
	}
	m.sweep()
	for _, w := range m.all() {
		w.kick()
	}
}

// orphan takes down a pod that the runtime has and nobody wants.
func (m *Manager) orphan(p cri.Pod) {
	m.mu.Lock()
	if !m.synced || m.workers[p.UID] != nil || len(p.Sandboxes)+len(p.Containers) == 0 {
		m.mu.Unlock()
		return
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: p.UID}}
	w := &worker{
		m: m, uid: p.UID, pod: pod, gone: true, held: true, last: &corev1.PodStatus{},
		killing: map[string]*kill{}, containers: map[string]*containerState{}, messages: map[string]string{},
	}
	m.workers[p.UID] = w
	m.mu.Unlock()
	m.log.Info("taking down a pod that is no longer wanted", "pod", ref(pod))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end(w.specGrace())
	w.kickLocked()
}

// sweep removes what earlier runs left of pods that have neither a worker nor containers: volumes, cgroups, directories,
// logs.
func (m *Manager) sweep() {
	left := map[types.UID]bool{}
	for name, list := range map[string]func() ([]types.UID, error){
		"volumes": m.volumes.Pods, "cgroups": m.cgroups.Pods, "directories": m.podDirs, "logs": m.loggedPods, "resources": m.resourcePods,
	} {
		uids, err := list()
		if err != nil {
			m.log.Warn("remains of earlier pods not listed", "kind", name, "err", err)
		}
		for _, uid := range uids {
			left[uid] = true
		}
	}
	for uid := range left {
		m.mu.Lock()
		wanted := m.workers[uid] != nil
		m.mu.Unlock()
		if wanted {
			continue
		}
		err := m.volumes.Unmount(m.ctx, uid)
		if err == nil {
			err = errors.Join(m.cgroups.Remove(uid), m.releaseUsers(uid), m.releaseResources(m.ctx, uid))
		}
		if err == nil {
			err = errors.Join(m.removeLogs(uid), m.removePodDir(uid))
		}
		if err != nil {
			m.log.Warn("remains of an earlier pod not removed", "uid", uid, "err", err)
		}
	}
}

func (m *Manager) podDirs() ([]types.UID, error) {
	entries, err := os.ReadDir(m.cfg.PodsDir)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("directory of the pods: %w", err)
	}
	var out []types.UID
	for _, e := range entries {
		out = append(out, types.UID(e.Name()))
	}
	return out, nil
}

// Has tells whether there is something of a pod on the node still.
func (m *Manager) Has(uid types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.workers[uid] != nil
}

func (m *Manager) changed(uid types.UID) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w != nil {
		w.kick()
		return
	}
	m.orphan(m.cache.Get(uid))
}

func (m *Manager) verdict(r probe.Result) {
	m.mu.Lock()
	w := m.workers[r.UID]
	m.mu.Unlock()
	if w != nil {
		w.verdictOf(r)
	}
}

func (m *Manager) forget(w *worker) {
	m.mu.Lock()
	if m.workers[w.uid] == w {
		delete(m.workers, w.uid)
	}
	m.mu.Unlock()
	m.images.Forget(w.uid)
	if m.gone != nil {
		m.gone(w.uid)
	}
	w.mu.Lock()
	next := w.next
	w.mu.Unlock()
	if next != nil {
		m.Set(*next)
	}
}

func (m *Manager) event(pod *corev1.Pod, container, kind, reason, message string) {
	if m.events != nil {
		m.events.Pod(pod, container, kind, reason, message)
	}
}

func (m *Manager) handler(ctx context.Context, pod *corev1.Pod) (string, error) {
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName == "" {
		return "", nil
	}
	return m.lookup(ctx, *pod.Spec.RuntimeClassName)
}

// hostDNS is the node's resolver configuration, read again when its file has changed.
func (m *Manager) hostDNS() criconfig.DNS {
	m.dnsMu.Lock()
	defer m.dnsMu.Unlock()
	path := m.cfg.ResolvConf
	if path == "" {
		path = filepath.Join("/etc", "resolv.conf")
	}
	info, err := os.Stat(path)
	if err != nil {
		return m.dns
	}
	if !info.ModTime().Equal(m.dnsTime) {
		if b, err := os.ReadFile(path); err == nil {
			m.dns, m.dnsTime = criconfig.ParseResolvConf(string(b)), info.ModTime()
		}
	}
	return m.dns
}

// Pods returns every pod of the node with its newest status. The objects are shared: don't change them.
func (m *Manager) Pods() []*corev1.Pod {
	var out []*corev1.Pod
	for _, w := range m.all() {
		out = append(out, w.current())
	}
	return out
}

// Pod returns one pod by name, with its newest status. A running one wins over an ended one of the same name.
func (m *Manager) Pod(namespace, name string) (*corev1.Pod, bool) {
	var found *corev1.Pod
	for _, w := range m.all() {
		p := w.current()
		if p.Namespace == namespace && p.Name == name && (found == nil || found.DeletionTimestamp != nil) {
			found = p
		}
	}
	return found, found != nil
}

func (w *worker) current() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := *w.pod
	if w.last != nil {
		p.Status = *w.last
	}
	return &p
}

// ProbeMetrics writes what the pods' probes have found.
func (m *Manager) ProbeMetrics(t *meter.Text) { m.probes.Write(t) }

// Cache is the runtime's picture, for those who list sandboxes and containers without asking the runtime.
func (m *Manager) Cache() *cri.Cache { return m.cache }
