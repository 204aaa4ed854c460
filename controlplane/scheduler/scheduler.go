// Package scheduler binds pods to nodes.
//
// One goroutine takes the most important waiting pod, decides under the state's lock with the pure functions of fit,
// and assumes the pod to be on the chosen node; the binding goes out at once on a goroutine of its own while the next
// pod is looked at. A pod that no node takes is parked with the filters that refused it, and comes back when an event
// may have turned one of them.
//
// Reads: pods, nodes, namespaces, claims, volumes, storage classes, disruption budgets. Writes: bindings; of unassigned
// pods the PodScheduled condition and nominatedNodeName; deletes the victims of preemption; events.
package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/mote-edge/mote/controlplane/scheduler/claims"
	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

// maxBindings is how many bindings may be under way at once.
const maxBindings = 64

// Config is what the scheduler is given.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory // from controlplane/informer; Run starts it
	Name      string                          // optional: the schedulerName it serves, default-scheduler
	Recorder  record.EventRecorder            // optional: one that posts events through Client
}

// Scheduler is the one scheduler of a cluster; leader election sees to that.
type Scheduler struct {
	cfg         Config
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	lull        *lull // of the events that broadcaster posts
	queue       *queue
	state       *state
	volumes     *volumes
	claims      *claims.Claims
	namespaces  corelisters.NamespaceLister
	budgets     policylisters.PodDisruptionBudgetLister
	synced      []cache.InformerSynced

	bindings chan struct{}
	wg       sync.WaitGroup
}

// New registers the scheduler with the informers and starts nothing.
func New(cfg Config) (*Scheduler, error) {
	if cfg.Client == nil || cfg.Informers == nil {
		return nil, errors.New("scheduler: Config.Client and Config.Informers are required")
	}
	if cfg.Name == "" {
		cfg.Name = corev1.DefaultSchedulerName
	}
	s := &Scheduler{
		cfg: cfg, recorder: cfg.Recorder, queue: newQueue(), state: newState(), bindings: make(chan struct{}, maxBindings),
		namespaces: cfg.Informers.Core().V1().Namespaces().Lister(),
		budgets:    cfg.Informers.Policy().V1().PodDisruptionBudgets().Lister(),
	}
	if s.recorder == nil {
		s.broadcaster = record.NewBroadcaster()
		s.lull = &lull{now: time.Now}
		s.recorder = lullRecorder{s.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: cfg.Name}), s.lull}
	}
	s.synced = append(s.synced,
		cfg.Informers.Core().V1().Namespaces().Informer().HasSynced,
		cfg.Informers.Policy().V1().PodDisruptionBudgets().Informer().HasSynced)
	s.claims = claims.New(cfg.Client, cfg.Informers, func() { s.queue.happened(fit.DynamicResources) })
	s.volumes = newVolumes(cfg.Client, cfg.Informers)
	return s, s.watch()
}

// Run schedules pods until ctx is done.
func (s *Scheduler) Run(ctx context.Context) error {
	if s.broadcaster != nil {
		s.broadcaster.StartRecordingToSink(lullSink{&typedcorev1.EventSinkImpl{Interface: s.cfg.Client.CoreV1().Events("")}, ctx, s.lull})
		defer s.broadcaster.Shutdown()
	}
	s.cfg.Informers.StartWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), s.synced...) {
		return nil // ctx is done
	}
	s.claims.Look(ctx)
	slog.InfoContext(ctx, "scheduler started", "name", s.cfg.Name)
	defer s.wg.Wait()
	for turn := 0; ; turn++ {
		it, pod := s.queue.pop(ctx)
		if it == nil {
			return nil
		}
		s.scheduleOne(ctx, it, pod, turn)
	}
}

func (s *Scheduler) scheduleOne(ctx context.Context, it *item, pod *fit.Pod, turn int) {
	if pod.DeletionTimestamp != nil || s.state.isAssumed(pod.UID) {
		s.queue.remove(pod.UID)
		return
	}
	if claims.Uses(pod.Pod) {
		s.claims.Begin(ctx)
		s.claims.Settle(ctx)
	}
	snap := &fit.Snapshot{NamespaceLabels: s.namespaceLabels, Volumes: s.volumes, Claims: s.claims}
	d := s.state.decide(pod, snap, s.allBudgets, turn)
	if d.node == "" {
		s.refused(ctx, it, pod, d)
		return
	}
	s.bindings <- struct{}{}
	s.wg.Add(1)
	go func() {
		defer func() { <-s.bindings; s.wg.Done() }()
		s.bind(ctx, it, pod, d)
	}()
}

func (s *Scheduler) namespaceLabels(name string) labels.Set {
	ns, err := s.namespaces.Get(name)
	if err != nil {
		return nil
	}
	return ns.Labels
}

func (s *Scheduler) allBudgets() []*policyv1.PodDisruptionBudget {
	all, err := s.budgets.List(labels.Everything())
	if err != nil {
		return nil // a lister over a cache doesn't fail
	}
	return all
}
