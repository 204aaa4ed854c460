package job

import (
	"fmt"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/controlplane/controllers/owned"
)

const indexEnv = "JOB_COMPLETION_INDEX"

// maxPrefix is how long a generateName may be to leave room for what is generated.
const maxPrefix = 58

// newPod makes a pod, for an index unless that is noIndex. replaces is the failed pod of the index that it comes
// after, if failures are counted for each index.
func newPod(j *batchv1.Job, index int, replaces *corev1.Pod) *corev1.Pod {
	p := owned.FromTemplate(&j.Spec.Template, j, kind)
	if !slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) {
		p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if index == noIndex {
		return p
	}
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	n := strconv.Itoa(index)
	p.Annotations[batchv1.JobCompletionIndexAnnotation] = n
	p.Labels[batchv1.JobCompletionIndexAnnotation] = n
	p.Spec.Hostname = j.Name + "-" + n
	p.GenerateName = indexedName(j.Name, n)
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			addIndexEnv(&list[i])
		}
	}
	if perIndex(j) {
		addFailureCounts(j, p, replaces)
	}
	return p
}

func indexedName(job, n string) string {
	suffix := "-" + n + "-"
	if len(job)+len(suffix) > maxPrefix {
		job = job[:maxPrefix-len(suffix)]
	}
	return job + suffix
}

func addIndexEnv(c *corev1.Container) {
	if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == indexEnv }) {
		return
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: indexEnv, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
		FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation),
	}}})
}

// addFailureCounts hands on how often the index failed.
func addFailureCounts(j *batchv1.Job, p, replaces *corev1.Pod) {
	counted, ignored := int32(0), int32(0)
	if replaces != nil {
		counted = countOf(replaces, batchv1.JobIndexFailureCountAnnotation)
		ignored = countOf(replaces, batchv1.JobIndexIgnoredFailureCountAnnotation)
		if rule(j.Spec.PodFailurePolicy, replaces).counts {
			counted++
		} else {
			ignored++
		}
	}
	p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(counted))
	if ignored > 0 {
		p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(int(ignored))
	}
}
