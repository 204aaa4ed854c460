package validation

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var downwardFields = sets.New("metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid")

func volumes(l *list, s *podScope, p *field.Path) {
	names := unique[string]{}
	for i := range s.spec.Volumes {
		v, ip := &s.spec.Volumes[i], p.Index(i)
		if v.Name == "" {
			l.required(ip.Child("name"), "")
		} else {
			l.dnsLabel(ip.Child("name"), v.Name)
		}
		names.check(l, ip.Child("name"), v.Name, v.Name)
		before := len(l.ErrorList)
		volumeSource(l, v, ip)
		if len(l.ErrorList) == before { // a broken volume can't be mounted
			s.volumes[v.Name] = v
		}
	}
}

func mode(l *list, m *int32, p *field.Path) {
	if m != nil && (*m < 0 || *m > 0o777) {
		l.add(field.Invalid(p, *m, "must be a number between 0 and 0777 (octal), both inclusive"))
	}
}

func items(l *list, all []corev1.KeyToPath, p *field.Path) {
	for i, it := range all {
		ip := p.Index(i)
		if it.Key == "" {
			l.required(ip.Child("key"), "")
		}
		filePath(l, it.Path, ip.Child("path"))
		mode(l, it.Mode, ip.Child("mode"))
	}
}

// filePath checks a file's place inside a volume.
func filePath(l *list, v string, p *field.Path) {
	if v == "" {
		l.required(p, "")
		return
	}
	l.relative(p, v)
	if strings.HasPrefix(v, "..") && !strings.HasPrefix(v, "../") && v != ".." {
		l.add(field.Invalid(p, v, "must not start with '..'"))
	}
}

func volumeSource(l *list, v *corev1.Volume, p *field.Path) {
	n := 0
	is := func(set bool) bool {
		if set {
			n++
		}
		return set
	}
	if is(v.EmptyDir != nil) && v.EmptyDir.SizeLimit != nil && v.EmptyDir.SizeLimit.Sign() < 0 {
		l.add(field.Forbidden(p.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
	}
	if is(v.HostPath != nil) {
		hostPath(l, v.HostPath, p.Child("hostPath"))
	}
	if is(v.Secret != nil) {
		if v.Secret.SecretName == "" {
			l.required(p.Child("secret", "secretName"), "")
		}
		mode(l, v.Secret.DefaultMode, p.Child("secret", "defaultMode"))
		items(l, v.Secret.Items, p.Child("secret", "items"))
	}
	if is(v.ConfigMap != nil) {
		if v.ConfigMap.Name == "" {
			l.required(p.Child("configMap", "name"), "")
		}
		mode(l, v.ConfigMap.DefaultMode, p.Child("configMap", "defaultMode"))
		items(l, v.ConfigMap.Items, p.Child("configMap", "items"))
	}
	if is(v.DownwardAPI != nil) {
		mode(l, v.DownwardAPI.DefaultMode, p.Child("downwardAPI", "defaultMode"))
		downward(l, v.DownwardAPI.Items, p.Child("downwardAPI"))
	}
	if is(v.Projected != nil) {
		projected(l, v.Projected, p.Child("projected"))
	}
	if is(v.PersistentVolumeClaim != nil) && v.PersistentVolumeClaim.ClaimName == "" {
		l.required(p.Child("persistentVolumeClaim", "claimName"), "")
	}
	if is(v.Ephemeral != nil) {
		if t := v.Ephemeral.VolumeClaimTemplate; t == nil {
			l.required(p.Child("ephemeral", "volumeClaimTemplate"), "")
		} else {
			l.addAll(metav1validation.ValidateLabels(t.Labels, p.Child("ephemeral", "volumeClaimTemplate", "metadata", "labels")))
			l.addAll(apivalidation.ValidateAnnotations(t.Annotations, p.Child("ephemeral", "volumeClaimTemplate", "metadata", "annotations")))
			claimSpec(l, &t.Spec, p.Child("ephemeral", "volumeClaimTemplate", "spec"))
		}
	}
	if is(v.CSI != nil) {
		driverName(l, p.Child("csi", "driver"), v.CSI.Driver)
		if r := v.CSI.NodePublishSecretRef; r != nil && r.Name == "" {
			l.required(p.Child("csi", "nodePublishSecretRef", "name"), "")
		} else if r != nil {
			l.dnsSubdomain(p.Child("csi", "name"), r.Name)
		}
	}
	if is(v.NFS != nil) {
		nfs(l, v.NFS, p.Child("nfs"))
	}
	if is(v.ISCSI != nil) {
		iscsi(l, v.ISCSI, p.Child("iscsi"))
	}
	if is(v.FC != nil) {
		fibre(l, v.FC, p.Child("fc"))
	}
	if is(v.Image != nil) {
		if v.Image.Reference == "" {
			l.required(p.Child("image", "reference"), "")
		}
		oneOf(l, p.Child("image", "pullPolicy"), v.Image.PullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	}
	for _, other := range []bool{
		v.GCEPersistentDisk != nil, v.AWSElasticBlockStore != nil, v.Glusterfs != nil, v.RBD != nil, v.FlexVolume != nil, v.Cinder != nil,
		v.CephFS != nil, v.Flocker != nil, v.AzureFile != nil, v.VsphereVolume != nil, v.Quobyte != nil, v.AzureDisk != nil,
		v.PhotonPersistentDisk != nil, v.PortworxVolume != nil, v.ScaleIO != nil, v.StorageOS != nil, v.GitRepo != nil,
	} {
		is(other)
	}
	switch {
	case n == 0:
		l.required(p, "must specify a volume type")
	case n > 1:
		l.add(field.Forbidden(p, "may not specify more than 1 volume type"))
	}
}

func nfs(l *list, n *corev1.NFSVolumeSource, p *field.Path) {
	if n.Server == "" {
		l.required(p.Child("server"), "")
	}
	if n.Path == "" {
		l.required(p.Child("path"), "")
	}
	if !strings.HasPrefix(n.Path, "/") {
		l.add(field.Invalid(p.Child("path"), n.Path, "must be an absolute path"))
	}
}

// lun is a logical unit's number.
func lun(l *list, n int32, p *field.Path) { l.between(p, int64(n), 0, 255) }

func iscsi(l *list, v *corev1.ISCSIVolumeSource, p *field.Path) {
	if v.TargetPortal == "" {
		l.required(p.Child("targetPortal"), "")
	}
	switch {
	case v.IQN == "":
		l.required(p.Child("iqn"), "")
	case !strings.HasPrefix(v.IQN, "iqn") && !strings.HasPrefix(v.IQN, "eui") && !strings.HasPrefix(v.IQN, "naa"):
		l.add(field.Invalid(p.Child("iqn"), v.IQN, "must be valid format starting with iqn, eui, or naa"))
	}
	lun(l, v.Lun, p.Child("lun"))
	if (v.DiscoveryCHAPAuth || v.SessionCHAPAuth) && v.SecretRef == nil {
		l.required(p.Child("secretRef"), "")
	}
}

func fibre(l *list, v *corev1.FCVolumeSource, p *field.Path) {
	switch names, ids := len(v.TargetWWNs), len(v.WWIDs); {
	case names == 0 && ids == 0:
		l.required(p.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both")
	case names > 0 && ids > 0:
		l.add(field.Invalid(p.Child("targetWWNs"), v.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	case names > 0 && v.Lun == nil:
		l.required(p.Child("lun"), "lun is required if targetWWNs is specified")
	}
	if len(v.TargetWWNs) > 0 && v.Lun != nil {
		lun(l, *v.Lun, p.Child("lun"))
	}
}

func hostPath(l *list, h *corev1.HostPathVolumeSource, p *field.Path) {
	if h.Path == "" {
		l.required(p.Child("path"), "")
		return
	}
	l.noBackstep(p.Child("path"), h.Path)
	if h.Type != nil {
		oneOf(l, p.Child("type"), *h.Type, corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory, corev1.HostPathFileOrCreate,
			corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)
	}
}

func downward(l *list, files []corev1.DownwardAPIVolumeFile, p *field.Path) {
	for i := range files { // upstream's field paths have no index here
		f, ip := &files[i], p
		filePath(l, f.Path, ip.Child("path"))
		mode(l, f.Mode, ip.Child("mode"))
		switch {
		case f.FieldRef != nil && f.ResourceFieldRef != nil:
			l.add(field.Invalid(ip, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		case f.FieldRef != nil:
			fieldRef(l, f.FieldRef, downwardFields, ip.Child("fieldRef"))
		case f.ResourceFieldRef != nil:
			resourceRef(l, f.ResourceFieldRef, true, ip.Child("resourceFieldRef"))
		default:
			l.required(ip, "one of fieldRef and resourceFieldRef is required")
		}
	}
}

func projected(l *list, v *corev1.ProjectedVolumeSource, p *field.Path) {
	mode(l, v.DefaultMode, p.Child("defaultMode"))
	paths := unique[string]{}
	seen := func(p *field.Path, path string) {
		if path != "" {
			paths.check(l, p, path, path)
		}
	}
	for i, src := range v.Sources {
		ip, n := p.Child("sources").Index(i), 0
		if s := src.Secret; s != nil {
			n++
			if s.Name == "" {
				l.required(ip.Child("secret", "name"), "")
			}
			items(l, s.Items, ip.Child("secret", "items"))
			for _, it := range s.Items {
				seen(ip.Child("secret", "items"), it.Path)
			}
		}
		if c := src.ConfigMap; c != nil {
			n++
			if c.Name == "" {
				l.required(ip.Child("configMap", "name"), "")
			}
			items(l, c.Items, ip.Child("configMap", "items"))
			for _, it := range c.Items {
				seen(ip.Child("configMap", "items"), it.Path)
			}
		}
		if d := src.DownwardAPI; d != nil {
			n++
			downward(l, d.Items, ip.Child("downwardAPI"))
			for _, it := range d.Items {
				seen(ip.Child("downwardAPI", "items"), it.Path)
			}
		}
		if t := src.ServiceAccountToken; t != nil {
			n++
			filePath(l, t.Path, p.Child("path"))
			if t.ExpirationSeconds == nil || *t.ExpirationSeconds < 600 {
				l.add(field.Invalid(ip.Child("serviceAccountToken", "expirationSeconds"), t.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
			}
			seen(ip.Child("serviceAccountToken", "path"), t.Path)
		}
		if b := src.ClusterTrustBundle; b != nil {
			n++
			bp := ip.Child("clusterTrustBundle")
			switch {
			case b.Name != nil && b.SignerName != nil:
				l.add(field.Invalid(bp, *b.Name, "only one of name and signerName may be used"))
			case b.Name == nil && b.SignerName == nil:
				l.required(bp, "either name or signerName must be specified")
			case b.Name != nil && b.LabelSelector != nil:
				l.add(field.Invalid(bp.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified"))
			}
			if b.Name != nil {
				if *b.Name == "" {
					l.required(bp.Child("name"), "must be non-empty")
				}
				// A bundle of a signer is named after it: example.com:mysigner:v1.
				l.dnsSubdomain(bp.Child("name"), (*b.Name)[strings.LastIndex(*b.Name, ":")+1:])
			}
			filePath(l, b.Path, bp.Child("path"))
			seen(bp.Child("path"), b.Path)
		}
		if c := src.PodCertificate; c != nil {
			n++
			cp := ip.Child("podCertificate")
			podCertificate(l, c, cp)
			for child, path := range map[string]string{"credentialBundlePath": c.CredentialBundlePath, "keyPath": c.KeyPath, "certificateChainPath": c.CertificateChainPath} {
				if path != "" {
					filePath(l, path, cp.Child(child))
					seen(cp.Child(child), path)
				}
			}
		}
		if n > 1 {
			l.add(field.Forbidden(ip, "may not specify more than 1 volume type per source"))
		}
	}
}

// podCertificate checks what a node will ask a signer for in a pod's name.
func podCertificate(l *list, c *corev1.PodCertificateProjection, p *field.Path) {
	if c.SignerName == "" {
		l.required(p.Child("signerName"), "")
	} else if domain, rest, ok := strings.Cut(c.SignerName, "/"); !ok || domain == "" || rest == "" {
		l.add(field.Invalid(p.Child("signerName"), c.SignerName, "must be a fully qualified domain and path of the form 'example.com/signer-name'"))
	}
	types := []string{"ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"}
	if !slices.Contains(types, c.KeyType) {
		l.add(field.NotSupported(p.Child("keyType"), c.KeyType, types))
	}
	if s := c.MaxExpirationSeconds; s != nil {
		switch {
		case *s < 3600:
			l.add(field.Invalid(p.Child("maxExpirationSeconds"), *s, "if provided, maxExpirationSeconds must be >= 3600"))
		case *s > 7862400:
			l.add(field.Invalid(p.Child("maxExpirationSeconds"), *s, "if provided, maxExpirationSeconds must be <= 7862400"))
		case strings.HasPrefix(c.SignerName, "kubernetes.io/") && *s > 86400:
			l.add(field.Invalid(p.Child("maxExpirationSeconds"), *s, "if provided, maxExpirationSeconds must be <= 86400"))
		}
	}
	if c.CredentialBundlePath == "" && c.KeyPath == "" && c.CertificateChainPath == "" {
		l.required(p, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
	}
}
