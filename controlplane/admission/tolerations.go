package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// defaultTolerations lets a pod outlive its node's silence for five minutes before it is moved, unless the pod says
// otherwise.
type defaultTolerations struct{}

var _ admission.MutationInterface = defaultTolerations{}

const tolerationSeconds = int64(300)

func (defaultTolerations) Handles(op admission.Operation) bool {
	return op == admission.Create || op == admission.Update
}

func (defaultTolerations) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod := admittedPod(a)
	if pod == nil {
		return nil
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if toleratesExecute(pod.Spec.Tolerations, key) {
			continue
		}
		seconds := tolerationSeconds
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
		})
	}
	return nil
}

func toleratesExecute(list []corev1.Toleration, key string) bool {
	for _, t := range list {
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}

// taintNodes keeps pods off a new node until its conditions are known.
type taintNodes struct{}

var _ admission.MutationInterface = taintNodes{}

func (taintNodes) Handles(op admission.Operation) bool { return op == admission.Create }

func (taintNodes) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	node, ok := a.GetObject().(*corev1.Node)
	if !ok || !on(a, "", "nodes", "") {
		return nil
	}
	for _, t := range node.Spec.Taints {
		if t.Key == corev1.TaintNodeNotReady && t.Effect == corev1.TaintEffectNoSchedule {
			return nil
		}
	}
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	return nil
}
