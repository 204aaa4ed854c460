package validation

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var specPath = field.NewPath("spec")

// owned checks a workload's selector against its template, which is what keeps it from making pods that aren't its own.
func owned(l *list, s *metav1.LabelSelector, t *corev1.PodTemplateSpec, p *field.Path) {
	if s == nil {
		l.required(p.Child("selector"), "")
	} else {
		selector(l, s, p.Child("selector"))
		if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
			l.add(field.Invalid(p.Child("selector"), s, "empty selector is invalid for a workload: name the labels of its pods"))
		}
	}
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		l.add(field.Invalid(p.Child("selector"), s, "invalid label selector"))
	} else if (s == nil || !sel.Empty()) && !sel.Matches(labels.Set(t.Labels)) {
		l.add(field.Invalid(p.Child("template", "metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	podTemplate(l, t, p.Child("template"))
}

// alwaysRestarts: a workload that keeps pods running accepts no other policy.
func alwaysRestarts(l *list, t *corev1.PodTemplateSpec, p *field.Path) {
	oneOf(l, p.Child("template", "spec", "restartPolicy"), t.Spec.RestartPolicy, corev1.RestartPolicyAlways)
	if t.Spec.ActiveDeadlineSeconds != nil {
		l.add(field.Forbidden(p.Child("template", "spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in the pod template is not Supported"))
	}
}

func count(l *list, v *int32, p *field.Path) {
	if v != nil {
		l.notNegative(p, int64(*v))
	}
}

func deployment(d *appsv1.Deployment) field.ErrorList {
	l := &list{}
	count(l, d.Spec.Replicas, specPath.Child("replicas"))
	owned(l, d.Spec.Selector, &d.Spec.Template, specPath)
	alwaysRestarts(l, &d.Spec.Template, specPath)
	l.notNegative(specPath.Child("minReadySeconds"), int64(d.Spec.MinReadySeconds))
	count(l, d.Spec.RevisionHistoryLimit, specPath.Child("revisionHistoryLimit"))
	if d.Spec.ProgressDeadlineSeconds != nil {
		count(l, d.Spec.ProgressDeadlineSeconds, specPath.Child("progressDeadlineSeconds"))
		if *d.Spec.ProgressDeadlineSeconds <= d.Spec.MinReadySeconds {
			l.add(field.Invalid(specPath.Child("progressDeadlineSeconds"), *d.Spec.ProgressDeadlineSeconds, "must be greater than minReadySeconds"))
		}
	}
	sp, s := specPath.Child("strategy"), &d.Spec.Strategy
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			l.add(field.Forbidden(sp.Child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'"))
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		rolling(l, s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge, sp.Child("rollingUpdate"))
	default:
		oneOf(l, sp, s.Type, appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType)
	}
	return l.ErrorList
}

func rolling(l *list, unavailable, surge *intstr.IntOrString, p *field.Path) {
	if unavailable != nil {
		l.percentOrCount(p.Child("maxUnavailable"), *unavailable)
		if unavailable.Type == intstr.String && len(unavailable.StrVal) > 4 || unavailable.StrVal > "100%" && len(unavailable.StrVal) == 4 {
			l.add(field.Invalid(p.Child("maxUnavailable"), unavailable, "must not be greater than 100%"))
		}
	}
	if surge != nil {
		l.percentOrCount(p.Child("maxSurge"), *surge)
	}
	if isZero(unavailable) && isZero(surge) {
		l.add(field.Invalid(p.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"))
	}
}

func deploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	l := &list{deployment(d)}
	l.immutable(specPath.Child("selector"), apiequality.Semantic.DeepEqual(d.Spec.Selector, old.Spec.Selector), d.Spec.Selector)
	return l.ErrorList
}

func replicaSet(r *appsv1.ReplicaSet) field.ErrorList {
	l := &list{}
	count(l, r.Spec.Replicas, specPath.Child("replicas"))
	l.notNegative(specPath.Child("minReadySeconds"), int64(r.Spec.MinReadySeconds))
	owned(l, r.Spec.Selector, &r.Spec.Template, specPath)
	alwaysRestarts(l, &r.Spec.Template, specPath)
	return l.ErrorList
}

func replicaSetUpdate(r, old *appsv1.ReplicaSet) field.ErrorList {
	l := &list{replicaSet(r)}
	l.immutable(specPath.Child("selector"), apiequality.Semantic.DeepEqual(r.Spec.Selector, old.Spec.Selector), r.Spec.Selector)
	return l.ErrorList
}

func replicationController(r *corev1.ReplicationController) field.ErrorList {
	l := &list{}
	count(l, r.Spec.Replicas, specPath.Child("replicas"))
	l.notNegative(specPath.Child("minReadySeconds"), int64(r.Spec.MinReadySeconds))
	if len(r.Spec.Selector) == 0 {
		l.required(specPath.Child("selector"), "")
	}
	if r.Spec.Template == nil {
		l.required(specPath.Child("template"), "")
		return l.ErrorList
	}
	if !labels.SelectorFromSet(r.Spec.Selector).Matches(labels.Set(r.Spec.Template.Labels)) {
		l.add(field.Invalid(specPath.Child("template", "metadata", "labels"), r.Spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	podTemplate(l, r.Spec.Template, specPath.Child("template"))
	alwaysRestarts(l, r.Spec.Template, specPath)
	return l.ErrorList
}

func statefulSet(s *appsv1.StatefulSet) field.ErrorList {
	l := &list{}
	oneOf(l, specPath.Child("podManagementPolicy"), s.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)
	up := specPath.Child("updateStrategy")
	switch s.Spec.UpdateStrategy.Type {
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.Spec.UpdateStrategy.RollingUpdate != nil {
			l.add(field.Invalid(up.Child("rollingUpdate"), s.Spec.UpdateStrategy.RollingUpdate, "only allowed for updateStrategy 'RollingUpdate'"))
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if r := s.Spec.UpdateStrategy.RollingUpdate; r != nil {
			count(l, r.Partition, up.Child("rollingUpdate", "partition"))
			if r.MaxUnavailable != nil {
				l.percentOrCount(up.Child("rollingUpdate", "maxUnavailable"), *r.MaxUnavailable)
				if isZero(r.MaxUnavailable) {
					l.add(field.Invalid(up.Child("rollingUpdate", "maxUnavailable"), r.MaxUnavailable, "cannot be 0"))
				}
			}
		}
	default:
		oneOf(l, up, s.Spec.UpdateStrategy.Type, appsv1.OnDeleteStatefulSetStrategyType, appsv1.RollingUpdateStatefulSetStrategyType)
	}
	if r := s.Spec.PersistentVolumeClaimRetentionPolicy; r != nil {
		rp := specPath.Child("persistentVolumeClaimRetentionPolicy")
		oneOf(l, rp.Child("whenDeleted"), r.WhenDeleted, appsv1.DeletePersistentVolumeClaimRetentionPolicyType, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
		oneOf(l, rp.Child("whenScaled"), r.WhenScaled, appsv1.DeletePersistentVolumeClaimRetentionPolicyType, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	}
	if s.Spec.ServiceName != "" {
		l.dnsLabel(specPath.Child("serviceName"), s.Spec.ServiceName)
	}
	count(l, s.Spec.Replicas, specPath.Child("replicas"))
	l.notNegative(specPath.Child("minReadySeconds"), int64(s.Spec.MinReadySeconds))
	if o := s.Spec.Ordinals; o != nil {
		l.notNegative(specPath.Child("ordinals", "start"), int64(o.Start))
	}
	claims := map[string]bool{}
	for i := range s.Spec.VolumeClaimTemplates {
		c, p := &s.Spec.VolumeClaimTemplates[i], specPath.Child("volumeClaimTemplates").Index(i)
		claimSpec(l, &c.Spec, p.Child("spec"))
		claims[c.Name] = true
	}
	// Mounts may name a claim template: for the check it stands as a volume.
	t := s.Spec.Template.DeepCopy()
	for name := range claims {
		if !hasVolume(t.Spec.Volumes, name) {
			t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
		}
	}
	owned(l, s.Spec.Selector, t, specPath)
	alwaysRestarts(l, t, specPath)
	return l.ErrorList
}

func hasVolume(vs []corev1.Volume, name string) bool {
	for i := range vs {
		if vs[i].Name == name {
			return true
		}
	}
	return false
}

func statefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	l := &list{statefulSet(s)}
	c := s.DeepCopy()
	c.Spec.Replicas, c.Spec.Template, c.Spec.UpdateStrategy = old.Spec.Replicas, old.Spec.Template, old.Spec.UpdateStrategy
	c.Spec.MinReadySeconds, c.Spec.Ordinals, c.Spec.RevisionHistoryLimit = old.Spec.MinReadySeconds, old.Spec.Ordinals, old.Spec.RevisionHistoryLimit
	c.Spec.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if !apiequality.Semantic.DeepEqual(c.Spec, old.Spec) {
		l.add(field.Forbidden(specPath, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return l.ErrorList
}

func daemonSet(d *appsv1.DaemonSet) field.ErrorList {
	l := &list{}
	owned(l, d.Spec.Selector, &d.Spec.Template, specPath)
	alwaysRestarts(l, &d.Spec.Template, specPath)
	l.notNegative(specPath.Child("minReadySeconds"), int64(d.Spec.MinReadySeconds))
	count(l, d.Spec.RevisionHistoryLimit, specPath.Child("revisionHistoryLimit"))
	up := specPath.Child("updateStrategy")
	switch d.Spec.UpdateStrategy.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		r := d.Spec.UpdateStrategy.RollingUpdate
		if r == nil {
			l.required(up.Child("rollingUpdate"), "")
			break
		}
		rolling(l, r.MaxUnavailable, r.MaxSurge, up.Child("rollingUpdate"))
		if !isZero(r.MaxUnavailable) && !isZero(r.MaxSurge) {
			l.add(field.Invalid(up.Child("rollingUpdate", "maxSurge"), r.MaxSurge, "may not be set when maxUnavailable is non-zero"))
		}
	default:
		oneOf(l, up, d.Spec.UpdateStrategy.Type, appsv1.OnDeleteDaemonSetStrategyType, appsv1.RollingUpdateDaemonSetStrategyType)
	}
	return l.ErrorList
}

func daemonSetUpdate(d, old *appsv1.DaemonSet) field.ErrorList {
	l := &list{daemonSet(d)}
	l.immutable(specPath.Child("selector"), apiequality.Semantic.DeepEqual(d.Spec.Selector, old.Spec.Selector), d.Spec.Selector)
	return l.ErrorList
}

func controllerRevision(c *appsv1.ControllerRevision) field.ErrorList {
	l := &list{}
	if c.Data.Raw == nil && c.Data.Object == nil {
		l.required(field.NewPath("data"), "data is mandatory")
	}
	l.notNegative(field.NewPath("revision"), c.Revision)
	return l.ErrorList
}

func controllerRevisionUpdate(c, old *appsv1.ControllerRevision) field.ErrorList {
	l := &list{controllerRevision(c)}
	l.immutable(field.NewPath("data"), apiequality.Semantic.DeepEqual(c.Data, old.Data), nil)
	return l.ErrorList
}

func disruptionBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	l := &list{}
	if b.Spec.MinAvailable != nil && b.Spec.MaxUnavailable != nil {
		l.add(field.Invalid(specPath, b.Spec, "minAvailable and maxUnavailable cannot be both set"))
	}
	if b.Spec.MinAvailable != nil {
		l.percentOrCount(specPath.Child("minAvailable"), *b.Spec.MinAvailable)
	}
	if b.Spec.MaxUnavailable != nil {
		l.percentOrCount(specPath.Child("maxUnavailable"), *b.Spec.MaxUnavailable)
	}
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil {
		oneOf(l, specPath.Child("unhealthyPodEvictionPolicy"), *p, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)
	}
	l.addAll(metav1validation.ValidateLabelSelector(b.Spec.Selector, metav1validation.LabelSelectorValidationOptions{}, specPath.Child("selector")))
	return l.ErrorList
}
