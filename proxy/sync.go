package proxy

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"

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
	built  map[snapshot.Name]*rules.Service
	zone   string
	forget func(*staleFlows) error
}

func newSyncer(cfg rules.Config, node string, store *snapshot.Store, program ruleProgram) *syncer {
	return &syncer{
		cfg: cfg, node: node, store: store, apply: newApplier(program),
		built: map[snapshot.Name]*rules.Service{}, forget: (*staleFlows).forget,
	}
}

// sync brings the named services' rules about, or everybody's where the kernel's state is not known or the node moved
// to another zone. After an error it has to be called again with the same names.
func (s *syncer) sync(ctx context.Context, dirty map[snapshot.Name]struct{}) error {
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
		svc := rules.Build(s.cfg, s.store.Service(name), s.store.Slices(name), rules.Topology{Node: s.node, Zone: s.zone})
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
		maps.Copy(s.built, before) // the next try compares flows with what was in force
		return err
	}
	slog.DebugContext(ctx, "service rules applied", "services", len(dirty), "chains", changed)
	s.settle(ctx, dirty, stale)
	return nil
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
