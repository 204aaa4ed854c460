package validation

import (
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxData is how much a ConfigMap or Secret may hold.
const maxData = corev1.MaxSecretSize

func configMap(c *corev1.ConfigMap) field.ErrorList {
	l, size := &list{}, 0
	for k, v := range c.Data {
		l.dataKey(field.NewPath("data"), k)
		if _, both := c.BinaryData[k]; both {
			l.add(field.Invalid(field.NewPath("data").Key(k), k, "duplicate of key present in binaryData"))
		}
		size += len(v)
	}
	for k, v := range c.BinaryData {
		l.dataKey(field.NewPath("binaryData"), k)
		size += len(v)
	}
	if size > maxData {
		l.add(tooLong(field.NewPath(""), size, maxData))
	}
	return l.ErrorList
}

func configMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	l := &list{configMap(c)}
	if old.Immutable != nil && *old.Immutable {
		if c.Immutable == nil || !*c.Immutable {
			l.add(field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
		}
		if !maps.Equal(c.Data, old.Data) {
			l.add(field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
		}
		if !apiequality.Semantic.DeepEqual(c.BinaryData, old.BinaryData) {
			l.add(field.Forbidden(field.NewPath("binaryData"), "field is immutable when `immutable` is set"))
		}
	}
	return l.ErrorList
}

func secret(s *corev1.Secret) field.ErrorList {
	l, size := &list{}, 0
	p := field.NewPath("data")
	for k, v := range s.Data {
		l.dataKey(p, k)
		size += len(v)
	}
	if size > maxData {
		l.add(tooLong(p, size, maxData))
	}
	need := func(keys ...string) {
		for _, k := range keys {
			if _, ok := s.Data[k]; !ok {
				l.required(p.Key(k), "")
			}
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			l.required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), "")
		}
	case corev1.SecretTypeDockercfg, corev1.SecretTypeDockerConfigJson:
		key := corev1.DockerConfigJsonKey
		if s.Type == corev1.SecretTypeDockercfg {
			key = corev1.DockerConfigKey
		}
		need(key)
		if data, ok := s.Data[key]; ok && !json.Valid(data) {
			l.add(field.Invalid(p.Key(key), "<secret contents redacted>", "invalid JSON"))
		}
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, pass := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !pass {
			need(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		need(corev1.SSHAuthPrivateKey)
	case corev1.SecretTypeTLS:
		need(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return l.ErrorList
}

func secretUpdate(s, old *corev1.Secret) field.ErrorList {
	l := &list{secret(s)}
	l.immutable(field.NewPath("type"), s.Type == old.Type, s.Type)
	if old.Immutable != nil && *old.Immutable {
		if s.Immutable == nil || !*s.Immutable {
			l.add(field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
		}
		if !apiequality.Semantic.DeepEqual(s.Data, old.Data) {
			l.add(field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
		}
	}
	return l.ErrorList
}

func node(n *corev1.Node) field.ErrorList {
	l := &list{}
	taints(l, n.Spec.Taints, field.NewPath("spec", "taints"))
	resourceNames(l, n.Status.Capacity, field.NewPath("status", "capacity"))
	resourceNames(l, n.Status.Allocatable, field.NewPath("status", "allocatable"))
	for i, c := range n.Spec.PodCIDRs {
		l.addAll(validation.IsValidCIDR(field.NewPath("spec", "podCIDRs").Index(i), c))
	}
	return l.ErrorList
}

func nodeUpdate(n, old *corev1.Node) field.ErrorList {
	l := &list{node(n)}
	if len(old.Spec.PodCIDRs) > 0 && !apiequality.Semantic.DeepEqual(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		l.add(field.Forbidden(field.NewPath("spec", "podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		l.add(field.Forbidden(field.NewPath("spec", "providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	addrs := unique[corev1.NodeAddress]{}
	for i, a := range n.Status.Addresses {
		addrs.check(l, field.NewPath("status", "addresses").Index(i), a, a)
	}
	return l.ErrorList
}

func limitRange(r *corev1.LimitRange) field.ErrorList {
	l := &list{}
	types := unique[corev1.LimitType]{}
	for i := range r.Spec.Limits {
		it, p := &r.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		types.check(l, p.Child("type"), it.Type, it.Type)
		l.qualifiedName(p.Child("type"), string(it.Type))
		for name, all := range map[string]corev1.ResourceList{"max": it.Max, "min": it.Min, "default": it.Default, "defaultRequest": it.DefaultRequest} {
			for k, q := range all {
				l.qualifiedName(p.Child(name).Key(string(k)), string(k))
				l.quantity(p.Child(name).Key(string(k)), q)
			}
		}
		if it.Type == corev1.LimitTypePod {
			if len(it.Default) > 0 {
				l.add(field.Forbidden(p.Child("default"), "may not be specified when `type` is 'Pod'"))
			}
			if len(it.DefaultRequest) > 0 {
				l.add(field.Forbidden(p.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
			}
		}
		if it.Type == corev1.LimitTypePersistentVolumeClaim && len(it.Min)+len(it.Max) == 0 {
			l.required(p, "either minimum or maximum storage value is required, but neither was provided")
		}
		above := func(low, high corev1.ResourceList, at, what string) {
			for k, a := range low {
				if b, ok := high[k]; ok && a.Cmp(b) > 0 {
					l.add(field.Invalid(p.Child(at).Key(string(k)), a.String(), fmt.Sprintf("%s value %s is greater than %s", at, a.String(), what+" value "+b.String())))
				}
			}
		}
		above(it.Min, it.Max, "min", "max")
		above(it.DefaultRequest, it.Max, "defaultRequest", "max")
		above(it.Min, it.DefaultRequest, "min", "default request")
		above(it.Default, it.Max, "default", "max")
		above(it.DefaultRequest, it.Default, "defaultRequest", "default limit")
		for k, ratio := range it.MaxLimitRequestRatio {
			if ratio.AsApproximateFloat64() < 1 {
				l.add(field.Invalid(p.Child("maxLimitRequestRatio").Key(string(k)), ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String())))
			}
		}
	}
	return l.ErrorList
}

func resourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	l := &list{}
	p := field.NewPath("spec")
	for k, v := range q.Spec.Hard {
		l.qualifiedName(p.Child("hard").Key(string(k)), string(k))
		l.quantity(p.Child("hard").Key(string(k)), v)
	}
	for i, s := range q.Spec.Scopes {
		oneOf(l, p.Child("scopes").Index(i), s, corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
			corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeVolumeAttributesClass)
	}
	if s := q.Spec.ScopeSelector; s != nil {
		for i, e := range s.MatchExpressions {
			ip := p.Child("scopeSelector", "matchExpressions").Index(i)
			oneOf(l, ip.Child("operator"), e.Operator, corev1.ScopeSelectorOpDoesNotExist, corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn)
			if (e.Operator == corev1.ScopeSelectorOpIn || e.Operator == corev1.ScopeSelectorOpNotIn) && len(e.Values) == 0 {
				l.required(ip.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
			}
		}
	}
	return l.ErrorList
}

func resourceQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	l := &list{resourceQuota(q)}
	l.immutable(field.NewPath("spec", "scopes"), apiequality.Semantic.DeepEqual(q.Spec.Scopes, old.Spec.Scopes), q.Spec.Scopes)
	return l.ErrorList
}

func accessModes(l *list, modes []corev1.PersistentVolumeAccessMode, p *field.Path) {
	if len(modes) == 0 {
		l.required(p, "at least 1 access mode is required")
	}
	once, other := false, false
	for _, m := range modes {
		oneOf(l, p, m, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
		once, other = once || m == corev1.ReadWriteOncePod, other || m != corev1.ReadWriteOncePod
	}
	if once && other {
		l.add(field.Forbidden(p, "may not use ReadWriteOncePod with other access modes"))
	}
}

func claimSpec(l *list, s *corev1.PersistentVolumeClaimSpec, p *field.Path) {
	accessModes(l, s.AccessModes, p.Child("accessModes"))
	selector(l, s.Selector, p.Child("selector"))
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		l.required(p.Child("resources").Key(string(corev1.ResourceStorage)), "")
	} else if q.Sign() <= 0 {
		l.add(field.Invalid(p.Child("resources").Key(string(corev1.ResourceStorage)), q.String(), "must be greater than zero"))
	}
	if s.StorageClassName != nil && *s.StorageClassName != "" {
		l.dnsSubdomain(p.Child("storageClassName"), *s.StorageClassName)
	}
	if s.VolumeMode != nil {
		oneOf(l, p.Child("volumeMode"), *s.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	}
}

func claim(c *corev1.PersistentVolumeClaim) field.ErrorList {
	l := &list{}
	claimSpec(l, &c.Spec, field.NewPath("spec"))
	return l.ErrorList
}

func claimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	l := &list{claim(c)}
	p := field.NewPath("spec")
	now, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = now.VolumeName // bound for the first time
	}
	if was.StorageClassName == nil {
		was.StorageClassName = now.StorageClassName
	}
	was.VolumeAttributesClassName = now.VolumeAttributesClassName
	size := func(s *corev1.PersistentVolumeClaimSpec) (int64, bool) {
		q, ok := s.Resources.Requests[corev1.ResourceStorage]
		return q.Value(), ok
	}
	if a, ok := size(was); ok {
		b, _ := size(now)
		if b < a && c.Status.Capacity.Storage().Cmp(*now.Resources.Requests.Storage()) >= 0 {
			l.add(field.Forbidden(p.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
		}
		if now.Resources.Requests != nil {
			now.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
		}
	}
	if !apiequality.Semantic.DeepEqual(now, was) {
		l.add(field.Forbidden(p, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"))
	}
	return l.ErrorList
}

func persistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	l := &list{}
	p := field.NewPath("spec")
	accessModes(l, v.Spec.AccessModes, p.Child("accessModes"))
	if q, ok := v.Spec.Capacity[corev1.ResourceStorage]; !ok || len(v.Spec.Capacity) > 1 {
		l.add(field.NotSupported(p.Child("capacity"), v.Spec.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	} else if q.Sign() <= 0 {
		l.add(field.Invalid(p.Child("capacity").Key("storage"), q.String(), "must be greater than zero"))
	}
	oneOf(l, p.Child("persistentVolumeReclaimPolicy"), v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	if h := v.Spec.HostPath; h != nil {
		hostPath(l, h, p.Child("hostPath"))
	}
	if loc := v.Spec.Local; loc != nil {
		if loc.Path == "" {
			l.required(p.Child("local", "path"), "")
		}
		if v.Spec.NodeAffinity == nil {
			l.required(p.Child("nodeAffinity"), "Local volume requires node affinity")
		}
	}
	if v.Spec.PersistentVolumeSource == (corev1.PersistentVolumeSource{}) {
		l.required(p, "must specify a volume type")
	}
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		nodeSelector(l, a.Required, p.Child("nodeAffinity", "required"))
	}
	return l.ErrorList
}

func persistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	l := &list{persistentVolume(v)}
	p := field.NewPath("spec")
	if !apiequality.Semantic.DeepEqual(v.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource) && v.Spec.CSI == nil {
		l.add(field.Forbidden(p.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation"))
	}
	l.immutable(p.Child("volumeMode"), apiequality.Semantic.DeepEqual(v.Spec.VolumeMode, old.Spec.VolumeMode), v.Spec.VolumeMode)
	return l.ErrorList
}

func event(e *corev1.Event) field.ErrorList {
	l := &list{}
	if e.Namespace != e.InvolvedObject.Namespace && e.InvolvedObject.Namespace != "" {
		l.add(field.Invalid(field.NewPath("involvedObject", "namespace"), e.InvolvedObject.Namespace, "does not match event.namespace"))
	}
	if e.InvolvedObject.Namespace == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
		l.add(field.Invalid(field.NewPath("involvedObject", "namespace"), e.InvolvedObject.Namespace, "does not match event.namespace"))
	}
	return l.ErrorList
}
