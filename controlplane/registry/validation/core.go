package validation

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

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
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			l.required(p.Key(corev1.SSHAuthPrivateKey), "")
		}
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
	p := field.NewPath("spec", "podCIDRs")
	if len(n.Spec.PodCIDRs) == 0 && n.Spec.PodCIDR != "" {
		l.addAll(validation.IsValidCIDR(p.Index(0), n.Spec.PodCIDR))
	}
	for i, c := range n.Spec.PodCIDRs {
		l.addAll(validation.IsValidCIDR(p.Index(i), c))
	}
	if c := n.Spec.PodCIDRs; len(c) > 2 || len(c) == 2 && strings.Contains(c[0], ":") == strings.Contains(c[1], ":") {
		l.add(field.Invalid(p, c, "may specify no more than one CIDR for each IP family"))
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
		if !strings.Contains(string(it.Type), "/") && it.Type != corev1.LimitTypePod && it.Type != corev1.LimitTypeContainer && it.Type != corev1.LimitTypePersistentVolumeClaim {
			l.add(field.Invalid(p.Child("type"), it.Type, "must be a standard limit type or fully qualified"))
		}
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
			l.required(p.Child("limits"), "either minimum or maximum storage value is required, but neither was provided")
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
			high, most := it.Max[k]
			low, least := it.Min[k]
			if most && least && low.Sign() > 0 {
				if limit := high.AsApproximateFloat64() / low.AsApproximateFloat64(); ratio.AsApproximateFloat64() > limit {
					l.add(field.Invalid(p.Child("maxLimitRequestRatio").Key(string(k)), ratio.String(), fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), limit)))
				}
			}
		}
	}
	return l.ErrorList
}

var quotaScopes = []corev1.ResourceQuotaScope{
	corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ResourceQuotaScopeNotBestEffort,
	corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeVolumeAttributesClass,
}

func resourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	l := &list{}
	p := field.NewPath("spec")
	for k, v := range q.Spec.Hard {
		l.qualifiedName(p.Child("hard").Key(string(k)), string(k))
		l.quantity(p.Child("hard").Key(string(k)), v)
	}
	scopes(l, q, p)
	for _, s := range q.Spec.Scopes {
		if !slices.Contains(quotaScopes, s) {
			l.add(field.Invalid(p.Child("scopes"), q.Spec.Scopes, "unsupported scope"))
		}
	}
	if s := q.Spec.ScopeSelector; s != nil {
		ip := p.Child("scopeSelector", "matchExpressions") // upstream's field paths have no index here
		for _, e := range s.MatchExpressions {
			if !slices.Contains(quotaScopes, e.ScopeName) {
				l.add(field.Invalid(ip.Child("scopeName"), e.ScopeName, "unsupported scope"))
			}
			switch e.Operator {
			case corev1.ScopeSelectorOpDoesNotExist, corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			default:
				l.add(field.Invalid(ip.Child("operator"), e.Operator, "not a valid selector operator"))
			}
			if (e.Operator == corev1.ScopeSelectorOpIn || e.Operator == corev1.ScopeSelectorOpNotIn) && len(e.Values) == 0 {
				l.required(ip.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
			}
		}
	}
	return l.ErrorList
}

// scopes refuses a scope that doesn't suit what the quota counts: those about pods' kinds count pods and their resources.
func scopes(l *list, q *corev1.ResourceQuota, p *field.Path) {
	fits := func(s corev1.ResourceQuotaScope) bool {
		for k := range q.Spec.Hard {
			if strings.Contains(string(k), "/") { // a count or an extended resource: whoever counts it judges
				continue
			}
			switch s {
			case corev1.ResourceQuotaScopeBestEffort:
				if k != corev1.ResourcePods {
					return false
				}
			case corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
				switch k {
				case corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
					corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage:
				default:
					return false
				}
			}
		}
		return true
	}
	for _, s := range q.Spec.Scopes {
		if !fits(s) {
			l.add(field.Invalid(p.Child("scopes"), q.Spec.Scopes, "unsupported scope applied to resource"))
			break
		}
	}
	if q.Spec.ScopeSelector != nil {
		for _, e := range q.Spec.ScopeSelector.MatchExpressions {
			if !fits(e.ScopeName) {
				l.add(field.Invalid(p.Child("scopeSelector", "matchExpressions"), q.Spec.ScopeSelector, "unsupported scope applied to resource"))
				break
			}
		}
	}
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
	if c := s.VolumeAttributesClassName; c != nil && *c != "" {
		l.dnsSubdomain(p.Child("volumeAttributesClassName"), *c)
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
		l.noBackstep(p.Child("local", "path"), loc.Path)
		if v.Spec.NodeAffinity == nil {
			l.required(p.Child("nodeAffinity"), "Local volume requires node affinity")
		}
	}
	if v.Spec.PersistentVolumeSource == (corev1.PersistentVolumeSource{}) {
		l.required(p, "must specify a volume type")
	}
	if n := v.Spec.NFS; n != nil {
		nfs(l, n, p.Child("nfs"))
	}
	if c := v.Spec.CSI; c != nil {
		driverName(l, p.Child("csi", "driver"), c.Driver)
		if c.VolumeHandle == "" {
			l.required(p.Child("csi", "volumeHandle"), "")
		}
		for name, ref := range map[string]*corev1.SecretReference{
			"controllerPublishSecretRef": c.ControllerPublishSecretRef, "controllerExpandSecretRef": c.ControllerExpandSecretRef, "nodeStageSecretRef": c.NodeStageSecretRef,
			"nodePublishSecretRef": c.NodePublishSecretRef, "nodeExpandSecretRef": c.NodeExpandSecretRef,
		} {
			secretReference(l, ref, p.Child("csi", name))
		}
	}
	if v.Spec.StorageClassName != "" {
		l.dnsSubdomain(p.Child("storageClassName"), v.Spec.StorageClassName)
	}
	if m := v.Spec.VolumeMode; m != nil {
		oneOf(l, p.Child("volumeMode"), *m, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	}
	if a := v.Spec.NodeAffinity; a != nil && a.Required == nil {
		l.required(p.Child("nodeAffinity", "required"), "must specify required node constraints")
	}
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		nodeSelector(l, a.Required, p.Child("nodeAffinity", "required"))
	}
	return l.ErrorList
}

func secretReference(l *list, r *corev1.SecretReference, p *field.Path) {
	if r == nil {
		return
	}
	for name, v := range map[string]string{"name": r.Name, "namespace": r.Namespace} {
		if v == "" {
			l.required(p.Child(name), "")
		}
	}
}

func persistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	l := &list{persistentVolume(v)}
	p := field.NewPath("spec")
	if !apiequality.Semantic.DeepEqual(v.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource) {
		l.add(field.Forbidden(p.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation"))
	}
	l.immutable(p.Child("volumeMode"), apiequality.Semantic.DeepEqual(v.Spec.VolumeMode, old.Spec.VolumeMode), v.Spec.VolumeMode)
	if old.Spec.NodeAffinity != nil && !apiequality.Semantic.DeepEqual(v.Spec.NodeAffinity, old.Spec.NodeAffinity) {
		l.add(field.Invalid(field.NewPath("nodeAffinity"), v.Spec.NodeAffinity, "field is immutable, except for updating from beta label to GA"))
	}
	return l.ErrorList
}

// maxEventText bounds the words of an event's head.
const maxEventText = 128

// event checks a new event. One with an eventTime is of events.k8s.io, whose rules are stricter: the old API's clients
// never set it.
func event(e *corev1.Event) field.ErrorList {
	l := &list{}
	if !e.EventTime.IsZero() {
		newEvent(l, e)
	}
	if e.Namespace != e.InvolvedObject.Namespace && e.InvolvedObject.Namespace != "" {
		l.add(field.Invalid(field.NewPath("involvedObject", "namespace"), e.InvolvedObject.Namespace, "does not match event.namespace"))
	}
	if e.InvolvedObject.Namespace == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
		l.add(field.Invalid(field.NewPath("involvedObject", "namespace"), e.InvolvedObject.Namespace, "does not match event.namespace"))
	}
	return l.ErrorList
}

func newEvent(l *list, e *corev1.Event) {
	word := func(name, v string) {
		switch {
		case v == "":
			l.required(field.NewPath(name), "")
		case len(v) > maxEventText:
			l.add(field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %d characters", maxEventText)))
		}
	}
	l.qualifiedName(field.NewPath("reportingController"), e.ReportingController)
	word("reportingInstance", e.ReportingInstance)
	word("action", e.Action)
	word("reason", e.Reason)
	if len(e.Message) > 1024 {
		l.add(field.Invalid(field.NewPath("message"), "", "can have at most 1024 characters"))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		l.add(field.Invalid(field.NewPath("type"), "", "has invalid value: "+e.Type))
	}
	if s := e.Series; s != nil {
		if s.Count < 2 {
			l.add(field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
		}
		if s.LastObservedTime.IsZero() {
			l.required(field.NewPath("series.lastObservedTime"), "")
		}
	}
}

// namespace checks the names of finalizers: the server's own, or qualified ones.
func namespace(n *corev1.Namespace) field.ErrorList {
	l := &list{}
	p := field.NewPath("spec", "finalizers")
	for _, f := range n.Spec.Finalizers {
		for _, m := range validation.IsQualifiedName(string(f)) {
			l.add(field.Invalid(p, f, m))
		}
		if !strings.Contains(string(f), "/") && f != corev1.FinalizerKubernetes && f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			l.add(field.Invalid(p, f, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return l.ErrorList
}
