package runtime

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/runtime/image"
	"github.com/mote-edge/mote/agent/runtime/spec"
)

// CreateContainer checks a configuration and prepares its root filesystem; nothing runs yet.
func (s *Service) CreateContainer(_ context.Context, req *cri.CreateContainerRequest) (_ *cri.CreateContainerResponse, retErr error) {
	config := req.GetConfig()
	if config.GetMetadata() == nil || config.GetImage().GetImage() == "" {
		return nil, fmt.Errorf("container metadata or image is missing: %w", errInvalid)
	}
	sb, err := s.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	sb.mu.Lock()
	ready := sb.rec.Ready
	sb.mu.Unlock()
	if !ready {
		return nil, fmt.Errorf("sandbox %q is not ready: %w", sb.rec.ID, errState)
	}
	if config.GetLinux().GetSecurityContext().GetPrivileged() && !sb.config.GetLinux().GetSecurityContext().GetPrivileged() {
		return nil, fmt.Errorf("no privileged container allowed in sandbox %q: %w", sb.rec.ID, errInvalid)
	}
	img, err := s.cfg.Images.Get(config.Image.Image)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", config.Image.Image, err)
	}
	id := newID()
	name := containerName(config, sb.rec.ID)
	if err := s.reserve(name, id); err != nil {
		return nil, err
	}
	defer func() {
		if retErr != nil {
			s.unreserve(name)
			if err := s.removeRoot(id); err != nil {
				s.log.Warn("remove the root of a container that wasn't created", "container", id, "err", err)
			}
			_ = s.forget("c", id)
		}
	}()
	rec, err := s.newRecord(id, sb, config, img)
	if err != nil {
		return nil, err
	}
	c := newContainer(rec, proto.CloneOf(config), logPath(sb.config, config))
	// Whatever the start would refuse in the configuration is refused here.
	in, err := s.specInput(sb, c, img, specDraft)
	if err != nil {
		return nil, err
	}
	points, err := s.mountPoints(in)
	if err != nil {
		return nil, err
	}
	root, err := s.prepareRoot(sb, c, img, points)
	if err != nil {
		return nil, err
	}
	if _, err := s.specFor(c, in, root); err != nil {
		return nil, err
	}
	if err := s.saveContainer(c); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.containers[id] = c
	s.mu.Unlock()
	s.emit(sb, id, cri.ContainerEventType_CONTAINER_CREATED_EVENT)
	return &cri.CreateContainerResponse{ContainerId: id}, nil
}

func (s *Service) newRecord(id string, sb *sandbox, config *cri.ContainerConfig, img image.Image) (containerRecord, error) {
	cgroup, err := spec.ParentPath(sb.config, id)
	if err != nil {
		return containerRecord{}, fmt.Errorf("%w: %w", errInvalid, err)
	}
	signal, err := stopSignal(config.GetStopSignal(), img.Config.Config.StopSignal)
	if err != nil {
		return containerRecord{}, err
	}
	rec := containerRecord{
		ID: id, SandboxID: sb.rec.ID, BootID: s.bootID, ImageID: img.ID, ImageRef: img.ID, State: stateCreated,
		CreatedAt: time.Now().UnixNano(), Cgroup: cgroup, StopSignal: signal,
	}
	if len(img.RepoDigests) > 0 {
		rec.ImageRef = img.RepoDigests[0]
	}
	rec.ImageName = imageName(config.Image, img)
	sb.mu.Lock()
	pod := sb.rec.labels
	sb.mu.Unlock()
	rec.labels, err = containerLabels(pod, sb.config.GetLinux().GetSecurityContext().GetSelinuxOptions(), config.GetLinux().GetSecurityContext().GetSelinuxOptions())
	if err != nil {
		return containerRecord{}, err
	}
	mode := config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid()
	rec.SharedPID = mode != cri.NamespaceMode_CONTAINER
	return rec, nil
}

// imageName is what people call the image: as the pod spelt it if that is one of its tags, else a tag.
func imageName(asked *cri.ImageSpec, img image.Image) string {
	if len(img.RepoTags) == 0 {
		return asked.Image
	}
	for _, spelling := range []string{asked.UserSpecifiedImage, asked.Image} {
		if full, err := image.Normalize(spelling); err == nil && slices.Contains(img.RepoTags, full) {
			return full
		}
	}
	return img.RepoTags[0]
}

// mountPoints are the paths at which a container's mounts will be made in its root, as far as it is certain by now whether they
// are files or directories. What is mounted below another mount needs no point in the root.
func (s *Service) mountPoints(in spec.Input) ([]image.MountPoint, error) {
	if in.Namespaces.User != "" {
		return nil, nil // such a root has its layers mapped, and its own points
	}
	mounts, err := spec.Mounts(in)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	uncertain := map[string]bool{}
	for _, m := range in.Mounts {
		if m.GetImage().GetImage() != "" && m.ImageSubPath != "" { // a draft doesn't say what is there
			uncertain[path.Clean(m.ContainerPath)] = true
		}
	}
	var out []image.MountPoint
	for _, m := range mounts {
		point := image.MountPoint{Path: path.Clean(m.Destination)}
		below := slices.ContainsFunc(mounts, func(other specs.Mount) bool {
			return strings.HasPrefix(point.Path, strings.TrimSuffix(path.Clean(other.Destination), "/")+"/")
		})
		if below || uncertain[point.Path] {
			continue
		}
		if m.Type == "bind" {
			info, err := os.Stat(m.Source)
			if err != nil {
				continue // it is made when the container starts
			}
			point.File = !info.IsDir()
		}
		out = append(out, point)
	}
	return out, nil
}

// prepareRoot makes the writable layer, mounts it and looks up the user in it. It returns where it is mounted.
func (s *Service) prepareRoot(sb *sandbox, c *container, img image.Image, points []image.MountPoint) (string, error) {
	if err := s.cfg.Images.Prepare(img.ID, c.rec.ID, points); err != nil {
		return "", err
	}
	root, err := s.mountRoot(sb, c)
	if err != nil {
		return "", err
	}
	passwd, err := readInRoot(root, "etc/passwd")
	if err != nil {
		return "", err
	}
	group, err := readInRoot(root, "etc/group")
	if err != nil {
		return "", err
	}
	user, err := spec.ResolveUser(c.config.GetLinux().GetSecurityContext(), img.Config.Config.User, passwd, group)
	if err != nil {
		return "", err
	}
	c.rec.UID, c.rec.GID, c.rec.Groups = user.UID, user.GID, user.Groups
	return root, nil
}

func logPath(sandbox *cri.PodSandboxConfig, config *cri.ContainerConfig) string {
	if sandbox.GetLogDirectory() == "" || config.GetLogPath() == "" {
		return ""
	}
	return filepath.Join(sandbox.LogDirectory, config.LogPath)
}
