package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/mounts"
	"github.com/mote-edge/mote/agent/runtime/namespace"
	"github.com/mote-edge/mote/agent/runtime/network"
)

// StopPodSandbox kills what runs in a pod and takes its network away. Repeating it, or an unknown ID, is success.
func (s *Service) StopPodSandbox(ctx context.Context, req *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	sb, err := s.sandbox(req.GetPodSandboxId())
	if errors.Is(err, errNotFound) {
		return &cri.StopPodSandboxResponse{}, nil
	}
	if err := s.stopSandbox(ctx, sb); err != nil {
		return nil, err
	}
	return &cri.StopPodSandboxResponse{}, nil
}

func (s *Service) stopSandbox(ctx context.Context, sb *sandbox) error {
	var wait sync.WaitGroup
	all := s.containersOf(sb.rec.ID)
	failures := make([]error, len(all))
	for i, c := range all {
		wait.Add(1)
		go func() {
			defer wait.Done()
			failures[i] = s.stopContainer(ctx, c, 0)
		}()
	}
	wait.Wait()
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("stop the containers of sandbox %q: %w", sb.rec.ID, err)
	}
	sb.op.Lock()
	defer sb.op.Unlock()
	sb.mu.Lock()
	wasReady := sb.rec.Ready
	sb.mu.Unlock()
	if err := s.tearDown(ctx, sb); err != nil {
		return err
	}
	sb.mu.Lock()
	sb.rec.Ready = false
	sb.mu.Unlock()
	// Stopped it is. On a full disk this must not fail: it is how pods go away that have filled it. A runtime that comes after
	// this one finds the network namespace gone, or stops what has none again.
	if err := s.saveSandbox(sb); err != nil {
		s.log.Error("checkpoint a stopped sandbox", "sandbox", sb.rec.ID, "err", err)
	}
	if wasReady {
		s.emit(sb, sb.rec.ID, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
	return nil
}

// tearDown undoes setUp, as far as it came. Each step is idempotent; the caller holds sb.op.
func (s *Service) tearDown(ctx context.Context, sb *sandbox) error {
	s.stopPodInit(sb)
	sb.mu.Lock()
	rec := sb.rec
	sb.mu.Unlock()
	if rec.Attached {
		netns := rec.NetPath
		if rec.BootID != s.bootID {
			netns = "" // it went with the reboot; plugins free what they keep on disk
		}
		rt, err := network.RuntimeConf(rec.ID, netns, sb.config)
		if err == nil {
			err = s.net.Detach(ctx, rt)
		}
		if err != nil && rec.BootID == s.bootID {
			return fmt.Errorf("failed to destroy network for sandbox %q: %w", rec.ID, err)
		}
		sb.mu.Lock()
		sb.rec.Attached = false
		sb.mu.Unlock()
	}
	for _, path := range []string{rec.NetPath, rec.IPCPath, rec.UTSPath, rec.UserPath} {
		if err := namespace.Unpin(path); err != nil {
			return err
		}
	}
	sb.mu.Lock()
	releaseLabels(&sb.rec.labels)
	sb.mu.Unlock()
	return s.removeSandboxDir(rec.ID)
}

func (s *Service) removeSandboxDir(id string) error {
	dir := s.sandboxDir(id)
	if err := mounts.Detach(filepath.Join(dir, "shm")); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("sandbox directory: %w", err)
	}
	return nil
}

// RemovePodSandbox stops a sandbox if need be and forgets it with its containers. An unknown ID is success.
func (s *Service) RemovePodSandbox(ctx context.Context, req *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	sb, err := s.sandbox(req.GetPodSandboxId())
	if errors.Is(err, errNotFound) {
		return &cri.RemovePodSandboxResponse{}, nil
	}
	sb.mu.Lock()
	ready := sb.rec.Ready || sb.rec.Attached
	sb.mu.Unlock()
	if ready {
		if err := s.stopSandbox(ctx, sb); err != nil {
			return nil, err
		}
	}
	for _, c := range s.containersOf(sb.rec.ID) {
		if err := s.removeContainer(ctx, c); err != nil {
			return nil, err
		}
	}
	sb.op.Lock()
	defer sb.op.Unlock()
	if err := s.tearDown(ctx, sb); err != nil {
		return nil, err
	}
	if err := s.forget("s", sb.rec.ID); err != nil {
		return nil, err
	}
	s.mu.Lock()
	delete(s.sandboxes, sb.rec.ID)
	s.stats.Forget(sb.rec.ID)
	delete(s.names, "sandbox "+sandboxName(sb.config.Metadata))
	s.mu.Unlock()
	s.emit(sb, sb.rec.ID, cri.ContainerEventType_CONTAINER_DELETED_EVENT)
	return &cri.RemovePodSandboxResponse{}, nil
}
