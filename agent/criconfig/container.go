package criconfig

import (
	"fmt"
	"hash/fnv"
	"path"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
)

// ContainerInput is all that one container's configuration comes from.
type ContainerInput struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	Attempt   uint32
	// Target is the ID of the container whose PID namespace an ephemeral container joins; empty means its own.
	Target      string
	Image       string // as resolved by the image store
	ImageUser   ImageUser
	Env         []EnvVar
	Mounts      []*runtimeapi.Mount
	SeccompRoot string // where localhost profiles are
	MemoryBytes int64  // the node's capacity
	CgroupV2    bool
	Tuning      Tuning
	// Users is the sandbox's mapping of users; nil means the host's.
	Users *runtimeapi.UserNamespace
}

// Container is the container's configuration.
func Container(in ContainerInput) (*runtimeapi.ContainerConfig, error) {
	c := in.Container
	if err := CheckNonRoot(in.Pod, c, in.ImageUser); err != nil {
		return nil, err
	}
	if err := checkProcMount(c, in.Users); err != nil {
		return nil, err
	}
	if in.Users != nil {
		for _, m := range in.Mounts { // files belong inside to whom they belong outside
			m.UidMappings, m.GidMappings = in.Users.Uids, in.Users.Gids
		}
	}
	lookup := Lookup(in.Env)
	cfg := &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: in.Attempt},
		Image:      &runtimeapi.ImageSpec{Image: in.Image, UserSpecifiedImage: c.Image},
		Command:    expandAll(c.Command, lookup),
		Args:       expandAll(c.Args, lookup),
		WorkingDir: c.WorkingDir,
		Mounts:     in.Mounts,
		Labels: map[string]string{
			cri.LabelPodName: in.Pod.Name, cri.LabelPodNamespace: in.Pod.Namespace, cri.LabelPodUID: string(in.Pod.UID), cri.LabelContainerName: c.Name,
		},
		Annotations: map[string]string{
			cri.AnnotationHash:                 Hash(c),
			cri.AnnotationRestartCount:         strconv.FormatUint(uint64(in.Attempt), 10),
			cri.AnnotationTerminationMsgPath:   c.TerminationMessagePath,
			cri.AnnotationTerminationMsgPolicy: string(c.TerminationMessagePolicy),
		},
		LogPath:   LogName(c.Name, in.Attempt),
		Stdin:     c.Stdin,
		StdinOnce: c.StdinOnce,
		Tty:       c.TTY,
		Linux:     &runtimeapi.LinuxContainerConfig{Resources: in.Tuning.Apply(Resources(in.Pod, c, in.MemoryBytes, in.CgroupV2), in.Pod, c), SecurityContext: security(in)},
	}
	if in.Pod.Spec.TerminationGracePeriodSeconds != nil {
		cfg.Annotations[cri.AnnotationGracePeriod] = strconv.FormatInt(*in.Pod.Spec.TerminationGracePeriodSeconds, 10)
	}
	for _, e := range in.Env {
		cfg.Envs = append(cfg.Envs, &runtimeapi.KeyValue{Key: e.Name, Value: []byte(e.Value)})
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		n, ok := runtimeapi.Signal_value[string(*c.Lifecycle.StopSignal)]
		if !ok {
			return nil, fmt.Errorf("stop signal %q is not known to CRI", *c.Lifecycle.StopSignal)
		}
		cfg.StopSignal = runtimeapi.Signal(n)
	}
	return cfg, nil
}

func expandAll(words []string, lookup func(string) (string, bool)) []string {
	var out []string
	for _, w := range words {
		out = append(out, Expand(w, lookup))
	}
	return out
}

// Hash tells whether a running container is still what the pod asks for: of all fields, only the image may change
// without the container being made anew by other means.
func Hash(c *corev1.Container) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.Name + "\x00" + c.Image))
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// LogName is the container's log file below the pod's log directory.
func LogName(container string, attempt uint32) string {
	return path.Join(container, strconv.FormatUint(uint64(attempt), 10)+".log")
}

// LogDir is the name of the pod's log directory.
func LogDir(pod *corev1.Pod) string {
	return strings.Join([]string{pod.Namespace, pod.Name, string(pod.UID)}, "_")
}
