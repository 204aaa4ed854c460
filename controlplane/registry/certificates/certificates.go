// Package certificates holds the resources of certificates.k8s.io/v1: signing
// requests with their approval, trust bundles, and pod certificate requests.
//
// Reads: the objects it serves.
// Writes: the objects it serves.
package certificates

import (
	"context"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

type request = certificatesv1.CertificateSigningRequest

// Storages builds everything of certificates.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	to := resource.Storages{}
	if err := resource.AddAll(c, to, &requests, &bundles, &podRequests); err != nil {
		return nil, err
	}
	approval := requests
	approval.ResetStatusFields = []fieldpath.Path{fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "certificate")}
	to["certificatesigningrequests/approval"] = approval.Subresource(
		to["certificatesigningrequests"].(*resource.REST).Store, prepareApproval, requests.ValidateApproval,
	)
	return to, nil
}

var requests = csrDescriptor{resource.Descriptor[*request]{
	GV: certificatesv1.SchemeGroupVersion, Plural: "certificatesigningrequests", Singular: "certificatesigningrequest", Cluster: true, ShortNames: []string{"csr"},
	New:           func() *request { return &request{} },
	NewList:       func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} },
	HasStatus:     true,
	Fields:        func(r *request) fields.Set { return fields.Set{"spec.signerName": r.Spec.SignerName} },
	PrepareCreate: fillRequestor,
	// A request never changes but through its subresources.
	PrepareUpdate: func(_ context.Context, r, old *request) { r.Spec = old.Spec },
	PrepareStatus: prepareStatus,
	ResetFields:   []fieldpath.Path{fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status")},
	ResetStatusFields: []fieldpath.Path{
		fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "conditions"),
	},
	Columns: []resource.Column[*request]{
		resource.Name[*request](),
		resource.Age[*request](),
		{Name: "SignerName", Value: func(r *request) any { return resource.OrNone(r.Spec.SignerName) }},
		{Name: "Requestor", Value: func(r *request) any { return r.Spec.Username }},
		{Name: "RequestedDuration", Value: func(r *request) any {
			if r.Spec.ExpirationSeconds == nil {
				return resource.None
			}
			return duration.HumanDuration(time.Duration(*r.Spec.ExpirationSeconds) * time.Second)
		}},
		{Name: "Condition", Value: func(r *request) any { return condition(r) }},
	},
}, nil}

// csrDescriptor is a descriptor with the check of its second subresource.
type csrDescriptor struct {
	resource.Descriptor[*request]
	ValidateApproval resource.UpdateCheck[*request]
}

// fillRequestor writes who asks: the signers and the approver trust these
// fields, so nobody may choose them.
func fillRequestor(ctx context.Context, r *request) {
	r.Spec.Username, r.Spec.UID, r.Spec.Groups, r.Spec.Extra = "", "", nil, nil
	if u, ok := genericapirequest.UserFrom(ctx); ok {
		r.Spec.Username, r.Spec.UID, r.Spec.Groups = u.GetName(), u.GetUID(), u.GetGroups()
		for k, v := range u.GetExtra() {
			if r.Spec.Extra == nil {
				r.Spec.Extra = map[string]certificatesv1.ExtraValue{}
			}
			r.Spec.Extra[k] = v
		}
	}
}

// prepareStatus lets the signer write anything but the approval.
func prepareStatus(_ context.Context, r, old *request) {
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
		keepConditions(r, old, t)
	}
	stamp(r, old)
}

func prepareApproval(_ context.Context, r, old *request) {
	stamp(r, old)
	conditions := r.Status.Conditions
	r.Spec, r.Status = old.Spec, old.Status
	r.Status.Conditions = conditions
}

// keepConditions puts the old conditions of a type back, as long as their
// number is the same; otherwise validation is to see the difference.
func keepConditions(r, old *request, t certificatesv1.RequestConditionType) {
	have, had := indices(r, t), indices(old, t)
	if len(have) != len(had) {
		return
	}
	for i := range had {
		r.Status.Conditions[have[i]] = old.Status.Conditions[had[i]]
	}
}

func indices(r *request, t certificatesv1.RequestConditionType) []int {
	var out []int
	for i, c := range r.Status.Conditions {
		if c.Type == t {
			out = append(out, i)
		}
	}
	return out
}

// stamp fills in the times that a writer left out.
func stamp(r, old *request) {
	now := metav1.Now()
	for i := range r.Status.Conditions {
		c := &r.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, o := range old.Status.Conditions {
			if o.Type == c.Type && o.Status == c.Status && !o.LastTransitionTime.IsZero() {
				c.LastTransitionTime = o.LastTransitionTime
				break
			}
		}
	}
}

func condition(r *request) string {
	is := map[certificatesv1.RequestConditionType]bool{}
	for _, c := range r.Status.Conditions {
		is[c.Type] = true
	}
	state := "Pending"
	if is[certificatesv1.CertificateDenied] {
		state = "Denied"
	} else if is[certificatesv1.CertificateApproved] {
		state = "Approved"
	}
	if is[certificatesv1.CertificateFailed] {
		state += ",Failed"
	}
	if len(r.Status.Certificate) > 0 {
		state += ",Issued"
	}
	return state
}

var bundles = resource.Descriptor[*certificatesv1.ClusterTrustBundle]{
	GV: certificatesv1.SchemeGroupVersion, Plural: "clustertrustbundles", Singular: "clustertrustbundle", Cluster: true,
	New:                  func() *certificatesv1.ClusterTrustBundle { return &certificatesv1.ClusterTrustBundle{} },
	NewList:              func() runtime.Object { return &certificatesv1.ClusterTrustBundleList{} },
	NeedsResourceVersion: true,
	// Names may carry the signer as "signer:domain:rest".
	NameRule: func(name string, prefix bool) []string {
		return validation.NameIsDNSSubdomain(lastColon(name), prefix)
	},
	Fields: func(b *certificatesv1.ClusterTrustBundle) fields.Set {
		return fields.Set{"spec.signerName": b.Spec.SignerName}
	},
	Columns: []resource.Column[*certificatesv1.ClusterTrustBundle]{
		resource.Name[*certificatesv1.ClusterTrustBundle](),
		{Name: "SignerName", Value: func(b *certificatesv1.ClusterTrustBundle) any { return resource.OrNone(b.Spec.SignerName) }},
	},
}

func lastColon(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == ':' {
			return name[i+1:]
		}
	}
	return name
}

var podRequests = resource.Descriptor[*certificatesv1.PodCertificateRequest]{
	GV: certificatesv1.SchemeGroupVersion, Plural: "podcertificaterequests", Singular: "podcertificaterequest",
	New:       func() *certificatesv1.PodCertificateRequest { return &certificatesv1.PodCertificateRequest{} },
	NewList:   func() runtime.Object { return &certificatesv1.PodCertificateRequestList{} },
	HasStatus: true, StatusKeepsMeta: true, NeedsResourceVersion: true,
	Fields: func(r *certificatesv1.PodCertificateRequest) fields.Set {
		return fields.Set{"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName)}
	},
	Columns: []resource.Column[*certificatesv1.PodCertificateRequest]{
		resource.Name[*certificatesv1.PodCertificateRequest](),
		{Name: "PodName", Value: func(r *certificatesv1.PodCertificateRequest) any { return r.Spec.PodName }},
		{Name: "ServiceAccountName", Value: func(r *certificatesv1.PodCertificateRequest) any { return r.Spec.ServiceAccountName }},
		{Name: "NodeName", Value: func(r *certificatesv1.PodCertificateRequest) any { return string(r.Spec.NodeName) }},
		{Name: "SignerName", Value: func(r *certificatesv1.PodCertificateRequest) any { return r.Spec.SignerName }},
		{Name: "State", Value: func(r *certificatesv1.PodCertificateRequest) any {
			state := "Pending"
			for _, c := range r.Status.Conditions {
				switch c.Type {
				case certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied,
					certificatesv1.PodCertificateRequestConditionTypeFailed:
					state = c.Type
				}
			}
			return state
		}},
	},
}
