package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/namespace"
	"github.com/mote-edge/mote/agent/runtime/network"
	"github.com/mote-edge/mote/agent/runtime/spec"
)

func sandboxName(m *cri.PodSandboxMetadata) string {
	return fmt.Sprintf("%s_%s_%s_%d", m.GetName(), m.GetNamespace(), m.GetUid(), m.GetAttempt())
}

func nsOptions(config *cri.PodSandboxConfig) *cri.NamespaceOption {
	return config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

// RunPodSandbox makes a pod's namespaces and attaches its network.
func (s *Service) RunPodSandbox(ctx context.Context, req *cri.RunPodSandboxRequest) (_ *cri.RunPodSandboxResponse, retErr error) {
	config := req.GetConfig()
	if config.GetMetadata() == nil {
		return nil, fmt.Errorf("sandbox metadata is missing: %w", errInvalid)
	}
	if h := req.GetRuntimeHandler(); h != "" && h != handlerName {
		return nil, fmt.Errorf("no runtime for %q is configured: %w", h, errInvalid)
	}
	id := newID()
	name := "sandbox " + sandboxName(config.Metadata)
	if err := s.reserve(name, id); err != nil {
		return nil, err
	}
	sb := &sandbox{
		config: proto.CloneOf(config),
		rec:    sandboxRecord{ID: id, BootID: s.bootID, CreatedAt: time.Now().UnixNano(), Creating: true, Handler: req.GetRuntimeHandler()},
	}
	sb.op.Lock()
	defer sb.op.Unlock()
	s.planNamespaces(sb)
	var err error
	if sb.rec.labels, err = s.newLabels(config.GetLinux().GetSecurityContext().GetSelinuxOptions()); err != nil {
		s.unreserve(name)
		return nil, err
	}
	if err := s.saveSandbox(sb); err != nil {
		releaseLabels(&sb.rec.labels)
		s.unreserve(name)
		return nil, err
	}
	defer func() {
		if retErr == nil {
			return
		}
		// The caller's context may be the reason for the failure: clean up with one of our own.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if err := s.tearDown(clean, sb); err != nil {
			s.log.Error("clean up after a failed sandbox; it stays, not ready, until it is stopped", "sandbox", id, "err", err)
			s.keepFailed(sb)
			return
		}
		if err := s.forget("s", id); err != nil {
			s.log.Error("forget a failed sandbox", "sandbox", id, "err", err)
		}
		s.unreserve(name)
	}()
	if err := s.setUp(ctx, sb); err != nil {
		return nil, err
	}
	sb.mu.Lock()
	sb.rec.Creating, sb.rec.Ready = false, true
	sb.mu.Unlock()
	if err := s.saveSandbox(sb); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.sandboxes[id] = sb
	s.mu.Unlock()
	s.emit(sb, id, cri.ContainerEventType_CONTAINER_CREATED_EVENT)
	s.emit(sb, id, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &cri.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// keepFailed shows a sandbox that couldn't be made and couldn't be taken down: whoever wanted it stops and removes it like any
// other, and makes another one.
func (s *Service) keepFailed(sb *sandbox) {
	sb.mu.Lock()
	sb.rec.Creating, sb.rec.Ready = false, false
	sb.mu.Unlock()
	if err := s.saveSandbox(sb); err != nil {
		s.log.Error("checkpoint a failed sandbox", "sandbox", sb.rec.ID, "err", err)
	}
	s.mu.Lock()
	s.sandboxes[sb.rec.ID] = sb
	s.mu.Unlock()
	s.emit(sb, sb.rec.ID, cri.ContainerEventType_CONTAINER_CREATED_EVENT)
	s.emit(sb, sb.rec.ID, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// planNamespaces decides what will be pinned where, before anything exists, so that a crash leaves a full record.
func (s *Service) planNamespaces(sb *sandbox) {
	options, rec := nsOptions(sb.config), &sb.rec
	if options.GetNetwork() != cri.NamespaceMode_NODE {
		rec.NetPath = filepath.Join(s.cfg.RunDir, "netns", rec.ID)
		rec.UTSPath = filepath.Join(s.cfg.RunDir, "ns", rec.ID+".uts")
	}
	if options.GetIpc() != cri.NamespaceMode_NODE {
		rec.IPCPath = filepath.Join(s.cfg.RunDir, "ns", rec.ID+".ipc")
	}
	if ownUsers(options) {
		rec.UserPath = filepath.Join(s.cfg.RunDir, "ns", rec.ID+".user")
	}
}

func (s *Service) setUp(ctx context.Context, sb *sandbox) error {
	rec := &sb.rec
	users, err := usersOf(sb.config)
	if err != nil {
		return err
	}
	if _, err := spec.ParentPath(sb.config, rec.ID); err != nil {
		return fmt.Errorf("%w: %w", errInvalid, err)
	}
	if rec.NetPath != "" { // before anything is made: without a configuration it couldn't be attached, nor detached after that
		if _, err := s.net.Config(); err != nil {
			return fmt.Errorf("failed to setup network for sandbox %q: %w", rec.ID, err)
		}
	}
	if err := s.writeSandboxFiles(sb, users); err != nil {
		return err
	}
	sysctls, err := namespace.Sysctls(sb.config.GetLinux().GetSysctls(), rec.NetPath == "", rec.IPCPath == "")
	if err != nil {
		return err
	}
	made := namespace.Config{
		Pins:  namespace.Pins{Net: rec.NetPath, IPC: rec.IPCPath, UTS: rec.UTSPath, User: rec.UserPath},
		Users: users, Hostname: sb.config.Hostname, Sysctls: sysctls,
	}
	if err := namespace.Make(made); err != nil {
		return err
	}
	if rec.NetPath != "" {
		rt, err := network.RuntimeConf(rec.ID, rec.NetPath, sb.config)
		if err != nil {
			return fmt.Errorf("%w: %w", errInvalid, err)
		}
		sb.mu.Lock()
		rec.Attached = true
		sb.mu.Unlock()
		ips, err := s.net.Attach(ctx, rt)
		if err != nil {
			return fmt.Errorf("failed to setup network for sandbox %q: %w", rec.ID, err)
		}
		sb.mu.Lock()
		rec.IPs = ips
		sb.mu.Unlock()
	}
	return nil
}

func (s *Service) sandboxDir(id string) string { return filepath.Join(s.cfg.RunDir, "sandboxes", id) }

func (s *Service) writeSandboxFiles(sb *sandbox, users *namespace.Users) error {
	dir := s.sandboxDir(sb.rec.ID)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("sandbox directory: %w", err)
	}
	resolv, err := resolvConf(sb.config.GetDnsConfig())
	if err != nil {
		return err
	}
	hostname := sb.config.GetHostname()
	if hostname == "" {
		hostname = s.host.Hostname
	}
	for name, content := range map[string]string{"resolv.conf": resolv, "hostname": hostname + "\n"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return fmt.Errorf("sandbox file: %w", err)
		}
		if err := errors.Join(giveTo(users, path), relabel(path, sb.rec.MountLabel)); err != nil {
			return fmt.Errorf("sandbox file: %w", err)
		}
	}
	return nil
}

// resolvConf renders the pod's DNS settings; without any it is the host's file.
func resolvConf(dns *cri.DNSConfig) (string, error) {
	if dns == nil || len(dns.Servers)+len(dns.Searches)+len(dns.Options) == 0 {
		raw, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !os.IsNotExist(err) {
			return "", fmt.Errorf("the host's DNS settings: %w", err)
		}
		return string(raw), nil
	}
	for _, word := range slices.Concat(dns.Servers, dns.Searches, dns.Options) {
		if strings.ContainsAny(word, "\n\r") {
			return "", fmt.Errorf("DNS setting %q is more than one line: %w", word, errInvalid)
		}
	}
	var out strings.Builder
	if len(dns.Searches) > 0 {
		out.WriteString("search " + strings.Join(dns.Searches, " ") + "\n")
	}
	for _, server := range dns.Servers {
		out.WriteString("nameserver " + server + "\n")
	}
	if len(dns.Options) > 0 {
		out.WriteString("options " + strings.Join(dns.Options, " ") + "\n")
	}
	return out.String(), nil
}
