package validation

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of the CSI specification.
const (
	maxDriverName = 63
	maxNodeID     = 192
)

func provisioner(l *list, p *field.Path, v string) {
	if v == "" {
		l.required(p, "")
		return
	}
	l.messages(p, strings.ToLower(v), validation.IsQualifiedName(strings.ToLower(v)))
}

// driverName checks the name of a CSI driver.
func driverName(l *list, p *field.Path, v string) {
	if v == "" {
		l.required(p, "")
		return
	}
	if len(v) > maxDriverName {
		l.add(field.TooLong(p, "", maxDriverName))
	}
	l.messages(p, v, validation.IsDNS1123Subdomain(strings.ToLower(v)))
}

func storageClass(c *storagev1.StorageClass) field.ErrorList {
	l := &list{}
	provisioner(l, field.NewPath("provisioner"), c.Provisioner)
	if c.ReclaimPolicy != nil && *c.ReclaimPolicy != "" {
		oneOf(l, field.NewPath("reclaimPolicy"), *c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)
	}
	if c.VolumeBindingMode == nil {
		l.required(field.NewPath("volumeBindingMode"), "")
	} else {
		oneOf(l, field.NewPath("volumeBindingMode"), *c.VolumeBindingMode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)
	}
	topologies(l, c.AllowedTopologies, field.NewPath("allowedTopologies"))
	return l.ErrorList
}

// topologies may not say the same twice: neither a key in a term, nor a value of a key, nor a term.
func topologies(l *list, terms []corev1.TopologySelectorTerm, p *field.Path) {
	var before []map[string][]string
	for i, t := range terms {
		mp := p.Index(i).Child("matchLabelExpressions")
		this := map[string][]string{}
		keys := unique[string]{}
		for k, e := range t.MatchLabelExpressions {
			ep := mp.Index(k)
			if len(e.Values) == 0 {
				l.required(ep.Child("values"), "")
			}
			values := unique[string]{}
			for n, v := range e.Values {
				values.check(l, ep.Child("values").Index(n), v, v)
			}
			l.addAll(metav1validation.ValidateLabelName(e.Key, ep.Child("key")))
			keys.check(l, ep.Child("key"), e.Key, e.Key)
			this[e.Key] = e.Values
		}
		for _, b := range before {
			if apiequality.Semantic.DeepEqual(b, this) {
				l.add(field.Duplicate(mp, ""))
			}
		}
		before = append(before, this)
	}
}

func storageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	l := &list{storageClass(c)}
	if !apiequality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
		l.add(field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	if c.Provisioner != old.Provisioner {
		l.add(field.Forbidden(field.NewPath("provisioner"), "updates to provisioner are forbidden."))
	}
	if !apiequality.Semantic.DeepEqual(c.ReclaimPolicy, old.ReclaimPolicy) {
		l.add(field.Forbidden(field.NewPath("reclaimPolicy"), "updates to reclaimPolicy are forbidden."))
	}
	l.immutable(field.NewPath("volumeBindingMode"), apiequality.Semantic.DeepEqual(c.VolumeBindingMode, old.VolumeBindingMode), c.VolumeBindingMode)
	return l.ErrorList
}

func attributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	l := &list{}
	provisioner(l, field.NewPath("driverName"), c.DriverName)
	if len(c.Parameters) == 0 {
		l.required(field.NewPath("parameters"), "must contain at least one key/value pair")
	}
	return l.ErrorList
}

func attributesClassUpdate(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
	l := &list{attributesClass(c)}
	if c.DriverName != old.DriverName {
		l.add(field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
	}
	if !apiequality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
		l.add(field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	return l.ErrorList
}

func csiNode(n *storagev1.CSINode) field.ErrorList {
	l := &list{}
	names := unique[string]{}
	for i, d := range n.Spec.Drivers {
		p := specPath.Child("drivers").Index(i)
		driverName(l, p.Child("name"), d.Name)
		switch {
		case d.NodeID == "":
			l.required(p.Child("nodeID"), "")
		case len(d.NodeID) > maxNodeID:
			l.add(field.Invalid(p.Child("nodeID"), d.NodeID, "must be 192 characters or less"))
		}
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			l.notNegative(p.Child("allocatable", "count"), int64(*d.Allocatable.Count))
		}
		topology := unique[string]{}
		for _, k := range d.TopologyKeys {
			if k == "" {
				l.required(p, k)
			}
			topology.check(l, p, k, k)
			l.qualifiedName(p, k)
		}
		names.check(l, p.Child("name"), d.Name, d.Name)
	}
	return l.ErrorList
}

func csiDriver(d *storagev1.CSIDriver) field.ErrorList {
	l := &list{}
	driverName(l, field.NewPath("name"), d.Name)
	for _, m := range d.Spec.VolumeLifecycleModes {
		oneOf(l, specPath.Child("volumeLifecycleModes"), m, storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)
	}
	if g := d.Spec.FSGroupPolicy; g != nil {
		oneOf(l, specPath.Child("fsGroupPolicy"), *g, storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	}
	audiences := unique[string]{}
	for i, t := range d.Spec.TokenRequests {
		p := specPath.Child("tokenRequests").Index(i)
		audiences.check(l, p.Child("audience"), t.Audience, t.Audience)
		switch s := t.ExpirationSeconds; {
		case s == nil:
		case *s < 600:
			l.add(field.Invalid(p.Child("expirationSeconds"), *s, "may not specify a duration less than 10 minutes"))
		case *s > 1<<32:
			l.add(field.Invalid(p.Child("expirationSeconds"), *s, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return l.ErrorList
}

func storageCapacity(c *storagev1.CSIStorageCapacity) field.ErrorList {
	l := &list{}
	l.dnsSubdomain(field.NewPath("storageClassName"), c.StorageClassName)
	if c.Capacity != nil {
		l.quantity(field.NewPath("capacity"), *c.Capacity)
	}
	if c.MaximumVolumeSize != nil {
		l.quantity(field.NewPath("maximumVolumeSize"), *c.MaximumVolumeSize)
	}
	if c.NodeTopology != nil {
		l.addAll(metav1validation.ValidateLabelSelector(c.NodeTopology, metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: true}, field.NewPath("nodeTopology")))
	}
	return l.ErrorList
}

func volumeAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	l := &list{}
	driverName(l, specPath.Child("attacher"), a.Spec.Attacher)
	src, p := a.Spec.Source, specPath.Child("source")
	switch {
	case src.InlineVolumeSpec == nil && src.PersistentVolumeName == nil:
		l.required(p, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
	case src.InlineVolumeSpec != nil && src.PersistentVolumeName != nil:
		l.add(field.Forbidden(p, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case src.PersistentVolumeName != nil:
		l.dnsSubdomain(p.Child("persistentVolumeName"), *src.PersistentVolumeName)
	default:
		l.addAll(persistentVolume(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "inline"}, Spec: *src.InlineVolumeSpec}))
	}
	l.dnsSubdomain(specPath.Child("nodeName"), a.Spec.NodeName)
	return l.ErrorList
}
