package cri

import (
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// State is how far a container or sandbox has come. It only ever grows for one ID, so that snapshots may arrive in any
// order, twice, or not at all: the furthest one wins.
type State int8

// The states in the order of a container's life. A sandbox is Running (ready) or Exited (not ready).
const (
	Created State = iota
	Running
	Exited
)

func (s State) String() string { return [...]string{"created", "running", "exited"}[s] }

// Container is one attempt of a container, as the runtime reports it, without what nobody reads. It is immutable once
// it is in the Cache.
type Container struct {
	ID, Name, SandboxID string
	Image               string // as asked for
	ImageRef, ImageID   string // as resolved
	State               State
	Attempt             uint32
	CreatedAt           int64 // nanoseconds since the epoch, as the next two
	StartedAt           int64
	FinishedAt          int64
	ExitCode            int32
	Reason, Message     string
	Hash                string
	LogPath             string
	TerminationPath     string // the message file in the container, and the policy to read it
	TerminationPolicy   string
	MessageFile         string // the message file's path on the host
	User                *runtimeapi.ContainerUser
	Resources           *runtimeapi.LinuxContainerResources
	StopSignal          runtimeapi.Signal
}

// Sandbox is one attempt of a pod's sandbox. Immutable once it is in the Cache.
type Sandbox struct {
	ID        string
	State     State
	Attempt   uint32
	CreatedAt int64
	IPs       []string
	Handler   string
}

// Pod is what the runtime has of one pod. Sandboxes are newest first, containers oldest first.
type Pod struct {
	UID             types.UID
	Namespace, Name string
	Sandboxes       []*Sandbox
	Containers      []*Container
}

// Sandbox returns the newest sandbox, or nil.
func (p *Pod) Sandbox() *Sandbox {
	if len(p.Sandboxes) == 0 {
		return nil
	}
	return p.Sandboxes[0]
}

// Latest returns the newest attempt of the named container, or nil.
func (p *Pod) Latest(name string) *Container {
	for _, c := range slices.Backward(p.Containers) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// ByID returns the container of that ID, or nil.
func (p *Pod) ByID(id string) *Container {
	for _, c := range p.Containers {
		if c.ID == id {
			return c
		}
	}
	return nil
}

// Running tells whether any container of the pod runs.
func (p *Pod) Running() bool {
	return slices.ContainsFunc(p.Containers, func(c *Container) bool { return c.State == Running })
}

func fromStatus(s *runtimeapi.ContainerStatus) *Container {
	c := &Container{
		ID: s.GetId(), Name: s.GetMetadata().GetName(), Attempt: s.GetMetadata().GetAttempt(),
		Image: s.GetImage().GetUserSpecifiedImage(), ImageRef: s.GetImageRef(), ImageID: s.GetImageId(),
		CreatedAt: s.GetCreatedAt(), StartedAt: s.GetStartedAt(), FinishedAt: s.GetFinishedAt(),
		ExitCode: s.GetExitCode(), Reason: s.GetReason(), Message: s.GetMessage(),
		Hash: s.GetAnnotations()[AnnotationHash], LogPath: s.GetLogPath(),
		TerminationPath: s.GetAnnotations()[AnnotationTerminationMsgPath], TerminationPolicy: s.GetAnnotations()[AnnotationTerminationMsgPolicy],
		User: s.GetUser(), Resources: s.GetResources().GetLinux(), StopSignal: s.GetStopSignal(),
	}
	if c.Image == "" {
		c.Image = s.GetImage().GetImage()
	}
	if n, err := strconv.ParseUint(s.GetAnnotations()[AnnotationRestartCount], 10, 32); err == nil {
		c.Attempt = uint32(n)
	}
	for _, m := range s.GetMounts() {
		if c.TerminationPath != "" && m.GetContainerPath() == c.TerminationPath {
			c.MessageFile = m.GetHostPath()
		}
	}
	switch s.GetState() {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		c.State = Created
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		c.State = Running
	default: // exited, or unknown to the runtime itself: either way it doesn't run
		c.State = Exited
	}
	return c
}

func fromSandbox(s *runtimeapi.PodSandboxStatus) *Sandbox {
	b := &Sandbox{
		ID: s.GetId(), State: Exited, Attempt: s.GetMetadata().GetAttempt(), CreatedAt: s.GetCreatedAt(), Handler: s.GetRuntimeHandler(),
	}
	if s.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
		b.State = Running
	}
	if ip := s.GetNetwork().GetIp(); ip != "" {
		b.IPs = append(b.IPs, ip)
		for _, more := range s.GetNetwork().GetAdditionalIps() {
			b.IPs = append(b.IPs, more.GetIp())
		}
	}
	return b
}

// further returns the later of two pictures of one container.
func further(old, next *Container) *Container {
	if old != nil && next.State < old.State {
		return old
	}
	if old != nil && next.SandboxID == "" {
		next.SandboxID = old.SandboxID
	}
	return next
}
