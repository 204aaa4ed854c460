package core

import (
	"context"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// tokenRequest is serviceaccounts/token: it signs tokens that live as long as
// what they are bound to, and not longer than asked for.
type tokenRequest struct {
	c                              *resource.Config
	accounts, pods, secrets, nodes rest.Getter
}

func (r *tokenRequest) New() runtime.Object { return &authenticationv1.TokenRequest{} }
func (r *tokenRequest) Destroy()            {}

func (r *tokenRequest) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps the UID, which
// is a precondition on the account.
func (r *tokenRequest) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

var (
	_ rest.NamedCreater                   = (*tokenRequest)(nil)
	_ rest.GroupVersionKindProvider       = (*tokenRequest)(nil)
	_ rest.SubresourceObjectMetaPreserver = (*tokenRequest)(nil)
)

// privateClaims is the "kubernetes.io" claim.
type privateClaims struct {
	Namespace      string    `json:"namespace,omitempty"`
	ServiceAccount claimRef  `json:"serviceaccount"`
	Pod            *claimRef `json:"pod,omitempty"`
	Secret         *claimRef `json:"secret,omitempty"`
	Node           *claimRef `json:"node,omitempty"`
}

type claimRef struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

func refTo(o metav1.Object) *claimRef { return &claimRef{o.GetName(), string(o.GetUID())} }

func (r *tokenRequest) Create(ctx context.Context, name string, obj runtime.Object, createValidation rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	req, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest: %T", obj))
	}
	namespace, ok := genericapirequest.NamespaceFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("namespace is required")
	}
	gk := r.GroupVersionKind(schema.GroupVersion{}).GroupKind()
	meta := field.NewPath("metadata")
	if req.Name != "" && req.Name != name {
		return nil, apierrors.NewInvalid(gk, name, field.ErrorList{field.Invalid(meta.Child("name"), req.Name, "must match the service account name if specified")})
	}
	if req.Namespace != "" && req.Namespace != namespace {
		return nil, apierrors.NewInvalid(gk, name, field.ErrorList{field.Invalid(meta.Child("namespace"), req.Namespace, "must match the service account namespace if specified")})
	}
	got, err := r.accounts.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	account := got.(*corev1.ServiceAccount)
	if req.UID != "" && req.UID != account.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: gk.Group, Resource: gk.Kind}, name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", req.UID, account.UID))
	}
	now := time.Now()
	req.Name, req.Namespace, req.UID = account.Name, account.Namespace, account.UID
	req.CreationTimestamp, req.Status = metav1.NewTime(now), authenticationv1.TokenRequestStatus{}
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = r.c.Audiences
	}
	if req.Spec.ExpirationSeconds == nil {
		hour := int64(3600)
		req.Spec.ExpirationSeconds = &hour
	}
	if errs := validateTokenRequest(req); len(errs) > 0 {
		return nil, apierrors.NewInvalid(gk, "", errs)
	}
	if createValidation != nil {
		if err := createValidation(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	private := privateClaims{Namespace: account.Namespace, ServiceAccount: *refTo(account)}
	if err := r.bind(ctx, req.Spec.BoundObjectRef, account, &private); err != nil {
		return nil, err
	}
	if limit := int64(r.c.TokenMaxLifetime / time.Second); limit > 0 && *req.Spec.ExpirationSeconds > limit {
		warning.AddWarning(ctx, "", fmt.Sprintf("requested expiration of %d seconds shortened to %d seconds", *req.Spec.ExpirationSeconds, limit))
		req.Spec.ExpirationSeconds = &limit
	}
	expires := now.Add(time.Duration(*req.Spec.ExpirationSeconds) * time.Second)
	if r.c.Tokens == nil {
		return nil, apierrors.NewInternalError(errors.New("this API server has no service-account key (resource.Config.Tokens is not set)"))
	}
	token, err := r.c.Tokens.Sign(ctx, resource.TokenClaims{
		Subject:   serviceaccount.MakeUsername(account.Namespace, account.Name),
		Audiences: req.Spec.Audiences,
		IssuedAt:  now, NotBefore: now, Expires: expires,
		ID:      string(uuid.NewUUID()),
		Private: private,
	})
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	out := req.DeepCopy()
	out.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires)}
	return out, nil
}

func validateTokenRequest(req *authenticationv1.TokenRequest) field.ErrorList {
	path := field.NewPath("spec", "expirationSeconds")
	switch n := *req.Spec.ExpirationSeconds; {
	case n < 10*60:
		return field.ErrorList{field.Invalid(path, n, "may not specify a duration less than 10 minutes")}
	case n > 1<<32:
		return field.ErrorList{field.Invalid(path, n, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}

// bind checks that the object exists, and names it in the claims.
func (r *tokenRequest) bind(ctx context.Context, ref *authenticationv1.BoundObjectReference, account *corev1.ServiceAccount, claims *privateClaims) error {
	if ref == nil {
		return nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	var uid types.UID
	switch {
	case gvk.Group == "" && gvk.Kind == "Pod":
		obj, err := r.pods.Get(ctx, ref.Name, &metav1.GetOptions{})
		if err != nil {
			return err
		}
		pod := obj.(*corev1.Pod)
		if pod.Spec.ServiceAccountName != account.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account.Name))
		}
		uid, claims.Pod = pod.UID, refTo(pod)
		if pod.Spec.NodeName != "" {
			node, err := r.nodes.Get(clusterScope(ctx), pod.Spec.NodeName, &metav1.GetOptions{ResourceVersion: "0"})
			switch {
			case apierrors.IsNotFound(err):
				claims.Node = &claimRef{Name: pod.Spec.NodeName}
			case err != nil:
				return apierrors.NewInternalError(err)
			default:
				claims.Node = refTo(node.(*corev1.Node))
			}
		}
	case gvk.Group == "" && gvk.Kind == "Node":
		obj, err := r.nodes.Get(clusterScope(ctx), ref.Name, &metav1.GetOptions{})
		if err != nil {
			return err
		}
		node := obj.(*corev1.Node)
		uid, claims.Node = node.UID, refTo(node)
	case gvk.Group == "" && gvk.Kind == "Secret":
		obj, err := r.secrets.Get(ctx, ref.Name, &metav1.GetOptions{})
		if err != nil {
			return err
		}
		secret := obj.(*corev1.Secret)
		uid, claims.Secret = secret.UID, refTo(secret)
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
	}
	if ref.UID != "" && ref.UID != uid {
		return apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}
