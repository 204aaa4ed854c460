package proxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/mote-edge/mote/internal/iptables"
	"github.com/mote-edge/mote/proxy/rules"
	"github.com/mote-edge/mote/proxy/snapshot"
)

// syncer turns snapshot changes into kernel state. Its methods are called from one goroutine.
type syncer struct {
	cfg    rules.Config
	node   string
	store  *snapshot.Store
	apply  *applier
	health healthChecks
	// built has what each Service contributes. The rules of its own chains are dropped once they are applied.
	built map[snapshot.Name]*rules.Service
	// barred services have rules that the kernel refuses. They go without until they change: one Service must not keep
	// the others from working.
	barred map[snapshot.Name]struct{}
	// suspects are the services of a failed try.
	suspects map[snapshot.Name]*rules.Service
	zone     string
	forget   func(*staleFlows) error
}

func newSyncer(cfg rules.Config, node string, store *snapshot.Store, program ruleProgram) *syncer {
	return &syncer{
		cfg: cfg, node: node, store: store, apply: newApplier(program),
		built: map[snapshot.Name]*rules.Service{}, barred: map[snapshot.Name]struct{}{}, forget: (*staleFlows).forget,
	}
}

// sync brings the named services' rules about, or everybody's where the kernel's state is not known or the node moved
// to another zone. After an error it has to be called again with the same names.
func (s *syncer) sync(ctx context.Context, dirty map[snapshot.Name]struct{}) error {
	for n := range dirty {
		delete(s.barred, n)
	}
	for {
		err := s.try(ctx, dirty)
		var refused *iptables.RefusedError
		if !errors.As(err, &refused) {
			return err
		}
		name, ok := s.owner(refused.Line)
		if !ok {
			return err
		}
		s.barred[name] = struct{}{}
		slog.ErrorContext(ctx, "this node's kernel refuses a service's rules: it goes without until it changes", "service", name, "error", err)
	}
}

// try is sync without regard to whose fault a failure is.
func (s *syncer) try(ctx context.Context, dirty map[snapshot.Name]struct{}) error {
	if zone := s.store.Zone(); !s.apply.known() || zone != s.zone {
		s.zone = zone
		dirty = map[snapshot.Name]struct{}{}
		for _, n := range s.store.Names() {
			dirty[n] = struct{}{}
		}
		for n := range s.built {
			dirty[n] = struct{}{}
		}
	}
	stale := &staleFlows{targets: map[flowKey][]netip.AddrPort{}}
	before := map[snapshot.Name]*rules.Service{}
	nat := desired{chains: rules.Chains{}, keep: map[string]struct{}{}}
	for name := range dirty {
		old := s.built[name]
		svc := s.build(name)
		s.built[name] = &svc
		maps.Copy(nat.chains, svc.Chains)
		if old == nil {
			old = &rules.Service{}
		}
		before[name] = old
		stale.compare(old.Flows, svc.Flows)
	}
	for name, svc := range s.built {
		if _, isDirty := dirty[name]; isDirty {
			continue
		}
		for chain := range svc.Chains {
			nat.keep[chain] = struct{}{}
		}
	}
	standing, filter := rules.Assemble(s.cfg, maps.Values(s.built))
	maps.Copy(nat.chains, standing)
	changed, err := s.apply.apply(ctx, map[string]desired{"nat": nat, "filter": {chains: filter}})
	if err != nil {
		s.suspects = maps.Clone(s.built)
		maps.Copy(s.built, before) // the next try compares flows with what was in force
		return err
	}
	s.suspects = nil
	slog.DebugContext(ctx, "service rules applied", "services", len(dirty), "chains", changed)
	s.settle(ctx, dirty, stale)
	return nil
}

func (s *syncer) build(name snapshot.Name) rules.Service {
	if _, barred := s.barred[name]; barred {
		return rules.Service{}
	}
	return rules.Build(s.cfg, s.store.Service(name), s.store.Slices(name), rules.Topology{Node: s.node, Zone: s.zone})
}

// owner returns the Service to which a refused line belongs: that of a chain that it is in or leads to.
func (s *syncer) owner(line string) (snapshot.Name, bool) {
	fields := strings.Fields(line)
	for name, svc := range s.suspects {
		for chain := range svc.Chains {
			if slices.Contains(fields, chain) {
				return name, true
			}
		}
		for _, refusal := range svc.Refusals {
			if strings.HasSuffix(line, " "+refusal) {
				return name, true
			}
		}
	}
	return snapshot.Name{}, false
}

// settle does what follows once the rules are in force. Its failures touch one Service each and are not repeated.
func (s *syncer) settle(ctx context.Context, dirty map[snapshot.Name]struct{}, stale *staleFlows) {
	for name := range dirty {
		svc := s.built[name]
		for chain := range svc.Chains {
			svc.Chains[chain] = nil // applied; the applier keeps a hash
		}
		if len(svc.Chains) == 0 && len(svc.Routes) == 0 && len(svc.Refusals) == 0 && svc.HealthPort == 0 {
			delete(s.built, name)
			svc = nil
		}
		if err := s.health.update(ctx, name, svc); err != nil {
			slog.WarnContext(ctx, "service health check is not served", "error", err)
		}
	}
	if len(stale.targets) > 0 {
		if err := s.forget(stale); err != nil {
			slog.WarnContext(ctx, "clients of changed UDP services may be stuck until their flow times out", "error", err)
		}
	}
}
