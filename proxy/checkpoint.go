package proxy

import (
	"context"
	"log/slog"
	"time"
)

// saveDelay gathers changes: losing the last second's costs nothing once the API server is back.
const saveDelay = time.Second

func (p *Proxy) restore(ctx context.Context) {
	if p.cfg.Checkpoint == "" {
		return
	}
	loaded, err := p.store.Load(p.cfg.Checkpoint)
	switch {
	case err != nil:
		slog.WarnContext(ctx, "services are unknown until the API server is reached", "error", err)
	case loaded:
		slog.DebugContext(ctx, "services restored", "from", p.cfg.Checkpoint)
	}
}

// keepCheckpoint saves the snapshot after changes until ctx ends.
func (p *Proxy) keepCheckpoint(ctx context.Context) {
	if p.cfg.Checkpoint == "" {
		return
	}
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.unsaved:
		}
		if !sleep(ctx, saveDelay) {
			return
		}
		if err := p.store.Save(p.cfg.Checkpoint); err != nil && !failed {
			slog.WarnContext(ctx, "services are not saved: names may not resolve after a restart while the API server is away", "error", err)
			failed = true // said once
		}
	}
}
