// Package authorization answers the access reviews of authorization.k8s.io/v1.
//
// Reads: the API server's authorizer.
// Writes: nothing.
package authorization

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of authorization.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	return resource.Storages{
		"subjectaccessreviews": &resource.Review[*authorizationv1.SubjectAccessReview]{
			Singular:  "subjectaccessreview",
			NewObject: func() *authorizationv1.SubjectAccessReview { return &authorizationv1.SubjectAccessReview{} },
			Check: func(_ context.Context, r *authorizationv1.SubjectAccessReview) error {
				return invalid("SubjectAccessReview", validateSubject(&r.Spec))
			},
			Answer: func(ctx context.Context, r *authorizationv1.SubjectAccessReview) (runtime.Object, error) {
				r.Status = decide(ctx, c.Authorizer, attributes(subject(&r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes))
				return r, nil
			},
		},
		"localsubjectaccessreviews": &resource.Review[*authorizationv1.LocalSubjectAccessReview]{
			Singular:   "localsubjectaccessreview",
			Namespaced: true,
			NewObject:  func() *authorizationv1.LocalSubjectAccessReview { return &authorizationv1.LocalSubjectAccessReview{} },
			Check:      checkLocal,
			Answer: func(ctx context.Context, r *authorizationv1.LocalSubjectAccessReview) (runtime.Object, error) {
				r.Status = decide(ctx, c.Authorizer, attributes(subject(&r.Spec), r.Spec.ResourceAttributes, nil))
				return r, nil
			},
		},
		"selfsubjectaccessreviews": &resource.Review[*authorizationv1.SelfSubjectAccessReview]{
			Singular:  "selfsubjectaccessreview",
			NewObject: func() *authorizationv1.SelfSubjectAccessReview { return &authorizationv1.SelfSubjectAccessReview{} },
			Check: func(_ context.Context, r *authorizationv1.SelfSubjectAccessReview) error {
				return invalid("SelfSubjectAccessReview", validateAttributes(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes))
			},
			Answer: func(ctx context.Context, r *authorizationv1.SelfSubjectAccessReview) (runtime.Object, error) {
				u, ok := genericapirequest.UserFrom(ctx)
				if !ok {
					return nil, apierrors.NewBadRequest("no user present on request")
				}
				r.Status = decide(ctx, c.Authorizer, attributes(u, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes))
				return r, nil
			},
		},
		"selfsubjectrulesreviews": &resource.Review[*authorizationv1.SelfSubjectRulesReview]{
			Singular:  "selfsubjectrulesreview",
			NewObject: func() *authorizationv1.SelfSubjectRulesReview { return &authorizationv1.SelfSubjectRulesReview{} },
			Check: func(_ context.Context, r *authorizationv1.SelfSubjectRulesReview) error {
				if r.Spec.Namespace == "" {
					return apierrors.NewBadRequest("no namespace on request")
				}
				return nil
			},
			Answer: func(ctx context.Context, r *authorizationv1.SelfSubjectRulesReview) (runtime.Object, error) {
				return rules(ctx, c.Rules, r.Spec.Namespace)
			},
		},
	}, nil
}

func invalid(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind(kind).GroupKind(), "", errs)
}

func checkLocal(ctx context.Context, r *authorizationv1.LocalSubjectAccessReview) error {
	errs := validateSubject(&r.Spec)
	if r.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec", "nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("spec", "resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
	}
	if err := invalid("LocalSubjectAccessReview", errs); err != nil {
		return err
	}
	if ns := genericapirequest.NamespaceValue(ctx); ns != r.Spec.ResourceAttributes.Namespace {
		return apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", ns))
	}
	return nil
}

func validateSubject(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateAttributes(s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), s.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateAttributes(r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) field.ErrorList {
	spec := field.NewPath("spec")
	switch {
	case r != nil && n != nil:
		return field.ErrorList{field.Invalid(spec.Child("nonResourceAttributes"), n, "cannot be specified in combination with resourceAttributes")}
	case r == nil && n == nil:
		return field.ErrorList{field.Invalid(spec.Child("resourceAttributes"), n, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	case r != nil:
		return validateSelectors(r, spec.Child("resourceAttributes"))
	}
	return nil
}

func subject(s *authorizationv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: s.User, Groups: s.Groups, UID: s.UID}
	for k, v := range s.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[k] = v
	}
	return u
}

func decide(ctx context.Context, a authorizer.UnconditionalAuthorizer, attr authorizer.Attributes) authorizationv1.SubjectAccessReviewStatus {
	decision, reason, err := a.Authorize(ctx, attr)
	st := authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason,
	}
	if err != nil {
		st.EvaluationError = err.Error()
	}
	// A selector that can't be parsed is left out of the decision: say so.
	for _, parse := range []func() error{
		func() error { _, err := attr.GetLabelSelector(); return err },
		func() error { _, err := attr.GetFieldSelector(); return err },
	} {
		if err := parse(); err != nil {
			if st.EvaluationError != "" {
				st.EvaluationError += "; "
			}
			st.EvaluationError += err.Error()
		}
	}
	return st
}

func rules(ctx context.Context, resolver authorizer.RuleResolver, namespace string) (runtime.Object, error) {
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	out := &authorizationv1.SelfSubjectRulesReview{Status: authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{},
	}}
	if resolver == nil {
		out.Status.Incomplete = true
		out.Status.EvaluationError = "no authorizer of this server can list rules"
		return out, nil
	}
	resources, paths, incomplete, err := resolver.RulesFor(ctx, u, namespace)
	out.Status.Incomplete = incomplete
	if err != nil {
		out.Status.EvaluationError = err.Error()
	}
	for _, r := range resources {
		out.Status.ResourceRules = append(out.Status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: r.GetVerbs(), APIGroups: r.GetAPIGroups(), Resources: r.GetResources(), ResourceNames: r.GetResourceNames(),
		})
	}
	for _, p := range paths {
		out.Status.NonResourceRules = append(out.Status.NonResourceRules, authorizationv1.NonResourceRule{
			Verbs: p.GetVerbs(), NonResourceURLs: p.GetNonResourceURLs(),
		})
	}
	return out, nil
}
