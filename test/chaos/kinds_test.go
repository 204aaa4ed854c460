package chaos

import (
	"errors"
	"fmt"
	"math/rand"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
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
		until: over,
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
		until: over,
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
	{
		// Users of its own, so that its root filesystem is mounted elsewhere and mapped; an image as a volume, a part of a
		// ConfigMap. What it needs of them is looked at when it starts, and it writes into its own root.
		name: "users",
		spec: func(p *corev1.Pod, _ *rand.Rand) {
			p.Spec.HostUsers = ptr.To(false)
			p.Spec.Volumes = []corev1.Volume{
				{Name: "i", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: image, PullPolicy: corev1.PullIfNotPresent}}},
				{Name: "m", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: configMap}}}},
			}
			c := shell("c", `[ -e /i/busybox ] || exit 9; [ "$(cat /part)" = value ] || exit 8; echo 0 > /own || exit 7; cat /own; i=1; `+counting[len("i=0; "):])
			c.VolumeMounts = []corev1.VolumeMount{{Name: "i", MountPath: "/i", ReadOnly: true}, {Name: "m", MountPath: "/part", SubPath: "key"}}
			p.Spec.Containers = []corev1.Container{c}
		},
		until: ready,
		judge: func(p *corev1.Pod) error { return errors.Join(undisturbed(p), counted(p, "c", 0, 1)) },
	},
	{
		// A sidecar that counts, and a main container that ends with a code and a message, and the sidecar after it.
		name: "sidecar",
		spec: func(p *corev1.Pod, r *rand.Rand) {
			code := 1 + r.Intn(100)
			p.Annotations = map[string]string{"code": strconv.Itoa(code)}
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			side := shell("side", counting)
			side.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
			side.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/busybox", "true"}}}}
			p.Spec.InitContainers = []corev1.Container{side}
			p.Spec.Containers = []corev1.Container{shell("c", fmt.Sprintf("echo 0; echo -n bye %d > /dev/termination-log; sleep 0.%d; exit %d", code, r.Intn(10), code))}
		},
		until: over,
		judge: func(p *corev1.Pod) error {
			return errors.Join(exited(p, "c", p.Annotations["code"], 0), said(p, "c", "bye "+p.Annotations["code"]), counted(p, "c", 0, 1), counted(p, "side", 0, 1))
		},
	},
	{
		// The host's network, and nothing of the pod network.
		name: "host",
		spec: func(p *corev1.Pod, _ *rand.Rand) {
			p.Spec.HostNetwork = true
			p.Spec.Containers = []corev1.Container{shell("c", counting)}
		},
		until: ready,
		judge: func(p *corev1.Pod) error { return errors.Join(undisturbed(p), counted(p, "c", 0, 1)) },
	},
}

func over(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
}
