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
	configMap = "chaos"
)

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

// said: the container that has ended left this message.
func said(p *corev1.Pod, container, message string) error {
	for _, st := range p.Status.ContainerStatuses {
		if st.Name == container && st.State.Terminated != nil && st.State.Terminated.Message == message {
			return nil
		}
	}
	return fmt.Errorf("pod %s: its container doesn't say %q: %v", p.Name, message, p.Status.ContainerStatuses)
}

// uidOf is the pod's UID on the node: a static pod's is its manifest's hash.
func uidOf(p *corev1.Pod) string {
	if p.Annotations[corev1.MirrorPodAnnotationKey] != "" {
		return p.Annotations["kubernetes.io/config.hash"]
	}
	return string(p.UID)
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
	path := filepath.Join(node.Dir(), "log", "pods", namespace+"_"+p.Name+"_"+uidOf(p), container, fmt.Sprintf("%d.log", attempt))
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
