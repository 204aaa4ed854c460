package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/mote-edge/mote/internal/kubeclient"
)

const (
	image     = "mote.local/busybox:1"
	namespace = "default"
)

// kind is a sort of pod and what must hold of it when it is there or has ended.
type kind struct {
	name  string
	spec  func(p *corev1.Pod, r *rand.Rand)
	until func(*corev1.Pod) bool
	judge func(*corev1.Pod) error
}

func shell(name, script string) corev1.Container {
	return corev1.Container{
		Name: name, Image: image, Args: []string{"sh", "-c", script}, SecurityContext: &corev1.SecurityContext{RunAsUser: ptr.To[int64](0)},
	}
}

const counting = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done"

var kinds = []kind{
	{
		// It counts to 300 fast and ends with a code of its own.
		name: "ends",
		spec: func(p *corev1.Pod, r *rand.Rand) {
			code := 1 + r.Intn(100)
			p.Annotations = map[string]string{"code": strconv.Itoa(code)}
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.Containers = []corev1.Container{shell("c", fmt.Sprintf("i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); done; sleep 0.%d; echo $i; exit %d", r.Intn(10), code))}
		},
		until: func(p *corev1.Pod) bool {
			return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
		},
		judge: func(p *corev1.Pod) error {
			return errors.Join(exited(p, "c", p.Annotations["code"], 0), counted(p, "c", 0, 301))
		},
	},
	{
		// It fails once and then succeeds: one restart, no more.
		name: "again",
		spec: func(p *corev1.Pod, _ *rand.Rand) {
			p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			c := shell("c", "for i in 0 1 2 3 4 5 6 7 8 9; do echo $i; done; [ -e /v/was ] && exit 0; touch /v/was; exit 3")
			c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
			p.Spec.Containers = []corev1.Container{c}
		},
		until: func(p *corev1.Pod) bool {
			return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
		},
		judge: func(p *corev1.Pod) error {
			return errors.Join(exited(p, "c", "0", 1), counted(p, "c", 1, 10))
		},
	},
	{
		// It counts until it is deleted.
		name: "runs",
		spec: func(p *corev1.Pod, _ *rand.Rand) {
			p.Spec.Containers = []corev1.Container{shell("c", counting)}
		},
		until: ready,
		judge: func(p *corev1.Pod) error { return errors.Join(undisturbed(p), counted(p, "c", 0, 1)) },
	},
	{
		// All that leaves traces: init containers, two containers in one PID namespace, volumes, a host port, a probe.
		name: "rich",
		spec: func(p *corev1.Pod, r *rand.Rand) {
			p.Spec.ShareProcessNamespace = ptr.To(true)
			p.Spec.Volumes = []corev1.Volume{
				{Name: "m", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
				{Name: "d", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
					{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
				}}}},
			}
			mounts := []corev1.VolumeMount{{Name: "m", MountPath: "/m"}, {Name: "d", MountPath: "/d"}}
			first, one, two := shell("first", "echo 0; echo first > /m/first"), shell("c", counting), shell("two", counting)
			first.VolumeMounts, one.VolumeMounts = mounts, mounts
			p.Spec.InitContainers = []corev1.Container{first}
			one.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: int32(20000 + r.Intn(20000))}}
			one.ReadinessProbe = &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/busybox", "test", "-e", "/m/first"}}},
				PeriodSeconds: 1, FailureThreshold: 3, TimeoutSeconds: 5,
			}
			two.LivenessProbe = &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/busybox", "true"}}},
				PeriodSeconds: 1, FailureThreshold: 5, TimeoutSeconds: 5,
			}
			p.Spec.Containers = []corev1.Container{one, two}
		},
		until: ready,
		judge: func(p *corev1.Pod) error {
			return errors.Join(undisturbed(p), counted(p, "c", 0, 1), counted(p, "two", 0, 1))
		},
	},
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func newPod(k kind, name string, r *rand.Rand) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	p.Spec.NodeName = node.Name
	p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1)
	p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	p.Spec.AutomountServiceAccountToken = ptr.To(r.Intn(2) == 0)
	k.spec(p, r)
	for i := range p.Spec.Containers {
		for _, port := range p.Spec.Containers[i].Ports {
			if port.Protocol == "" {
				p.Spec.Containers[i].Ports[0].Protocol = corev1.ProtocolTCP
			}
		}
	}
	return p
}

// undisturbed: each container runs its first attempt.
func undisturbed(p *corev1.Pod) error {
	for _, st := range p.Status.ContainerStatuses {
		if st.RestartCount != 0 || st.State.Running == nil {
			return fmt.Errorf("pod %s: container %s was restarted %d times: %v, last %v", p.Name, st.Name, st.RestartCount, st.State, st.LastTerminationState)
		}
	}
	return nil
}

// exited: the container has ended with this code after so many restarts.
func exited(p *corev1.Pod, container, code string, restarts int32) error {
	for _, st := range p.Status.ContainerStatuses {
		if st.Name != container {
			continue
		}
		t := st.State.Terminated
		if t == nil {
			return fmt.Errorf("pod %s has ended, its container is %v", p.Name, st.State)
		}
		if strconv.Itoa(int(t.ExitCode)) != code || st.RestartCount != restarts {
			return fmt.Errorf("pod %s: exit code %d (%s: %s) after %d restarts, want %s after %d", p.Name, t.ExitCode, t.Reason, t.Message, st.RestartCount, code, restarts)
		}
		return nil
	}
	return fmt.Errorf("pod %s has no status of container %s: phase %s, %s: %s", p.Name, container, p.Status.Phase, p.Status.Reason, p.Status.Message)
}

// counted: the attempt's log holds 0, 1, 2, …, each once, and soon at least least of them: what a container has printed
// while the runtime was away is in the log when that is back.
func counted(p *corev1.Pod, container string, attempt, least int) (err error) {
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if err = countedNow(p, container, attempt, least); err == nil || errors.Is(err, errGap) || time.Now().After(deadline) {
			return err
		}
	}
}

var errGap = errors.New("lines were lost or repeated")

func countedNow(p *corev1.Pod, container string, attempt, least int) error {
	path := filepath.Join(node.Dir(), "log", "pods", namespace+"_"+p.Name+"_"+string(p.UID), container, fmt.Sprintf("%d.log", attempt))
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("pod %s: %w", p.Name, err)
	}
	text := string(raw)
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		text = text[:i+1] // the last line may be being written
	}
	n := 0
	for line := range strings.Lines(text) {
		words := strings.Fields(line) // time stream F text
		if len(words) != 4 || words[3] != strconv.Itoa(n) {
			return fmt.Errorf("pod %s, container %s: line %d of the log is %q: %w", p.Name, container, n, line, errGap)
		}
		n++
	}
	if n < least {
		return fmt.Errorf("pod %s, container %s: %d lines in the log, want %d", p.Name, container, n, least)
	}
	return nil
}

// await polls the API until ok or the time is over; the API server isn't among the victims, so its errors count.
func await(ctx context.Context, c *kubeclient.Client, name string, limit time.Duration, ok func(*corev1.Pod) bool) (*corev1.Pod, error) {
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		p, err := c.Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			p = nil
		} else if err != nil {
			return nil, err
		}
		if ok(p) {
			return p, nil
		}
		if time.Now().After(deadline) {
			if p == nil {
				return nil, fmt.Errorf("pod %s is gone", name)
			}
			return p, fmt.Errorf("pod %s: not so after %s: phase %s %s, conditions %v, containers %v", name, limit, p.Status.Phase, p.Status.Reason, p.Status.Conditions, p.Status.ContainerStatuses)
		}
	}
}
