package agent

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/podworker"
	"github.com/mote-edge/mote/agent/shutdown"
)

// shutdowns follows the machine's shutdowns for its pods.
func (a *Agent) shutdowns(p *parts) *shutdown.Shutdown {
	k := &a.cfg.Kubelet
	periods := shutdown.Periods(k.ShutdownGracePeriod.Duration, k.ShutdownGracePeriodCriticalPods.Duration)
	for _, g := range k.ShutdownGracePeriodByPodPriority {
		periods = append(periods, shutdown.Period{Priority: g.Priority, Grace: time.Duration(g.ShutdownGracePeriodSeconds) * time.Second})
	}
	return shutdown.New(shutdown.Config{Periods: periods, Pods: ending{evictable{a, p}}, Changed: p.node.Poke, Event: a.nodeEvent(p), Log: a.cfg.Log})
}

// ending is the node's pods as a shutdown sees them.
type ending struct{ evictable }

var _ shutdown.Pods = ending{}

// End implements shutdown.Pods.
func (e ending) End(pod *corev1.Pod, grace time.Duration) {
	e.p.pods.End(pod.UID, podworker.Verdict{Reason: shutdown.Reason, Message: shutdown.Message, Disruption: true}, grace)
}

// refuse says why the node takes no such pod at present; "" if it does.
func (p *parts) refuse(pod *corev1.Pod) (reason, message string) {
	if reason, message = p.evict.Refuse(pod); reason != "" {
		return reason, message
	}
	return p.shutdown.Refuse(pod)
}
