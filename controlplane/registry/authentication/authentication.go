// Package authentication answers the reviews of authentication.k8s.io/v1: whose
// token is this, and who am I.
//
// Reads: the API server's authenticator.
// Writes: nothing.
package authentication

import (
	"context"
	"errors"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Storages builds everything of authentication.k8s.io/v1.
func Storages(c *resource.Config) (resource.Storages, error) {
	return resource.Storages{
		"selfsubjectreviews": &resource.Review[*authenticationv1.SelfSubjectReview]{
			Singular:  "selfsubjectreview",
			NewObject: func() *authenticationv1.SelfSubjectReview { return &authenticationv1.SelfSubjectReview{} },
			Answer:    whoAmI,
		},
		"tokenreviews": &resource.Review[*authenticationv1.TokenReview]{
			Singular:  "tokenreview",
			NewObject: func() *authenticationv1.TokenReview { return &authenticationv1.TokenReview{} },
			Check: func(_ context.Context, t *authenticationv1.TokenReview) error {
				if t.Spec.Token == "" {
					return apierrors.NewBadRequest("token is required for TokenReview in authentication")
				}
				return nil
			},
			Answer: func(_ context.Context, t *authenticationv1.TokenReview) (runtime.Object, error) {
				return review(c.Authenticator, c.Audiences, t)
			},
		},
	}, nil
}

func whoAmI(ctx context.Context, _ *authenticationv1.SelfSubjectReview) (runtime.Object, error) {
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	return &authenticationv1.SelfSubjectReview{
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Now()},
		Status:     authenticationv1.SelfSubjectReviewStatus{UserInfo: info(u)},
	}, nil
}

var errAudiences = errors.New("error validating audiences: the authenticator accepted a token for other audiences")

func review(a authenticator.Request, own authenticator.Audiences, t *authenticationv1.TokenReview) (runtime.Object, error) {
	if a == nil {
		return t, nil
	}
	wanted := authenticator.Audiences(t.Spec.Audiences)
	if len(wanted) == 0 {
		wanted = own
	}
	// The request carries nothing but the token, so no other credential counts.
	req := &http.Request{Header: http.Header{"Authorization": {"Bearer " + t.Spec.Token}}}
	if len(wanted) > 0 {
		req = req.WithContext(authenticator.WithAudiences(context.Background(), wanted))
	}
	resp, ok, err := a.AuthenticateRequest(req)
	t.Status = authenticationv1.TokenReviewStatus{Authenticated: ok}
	if err != nil {
		t.Status.Error = err.Error()
	}
	if resp == nil {
		return t, nil
	}
	if len(wanted) > 0 && len(wanted.Intersect(resp.Audiences)) == 0 {
		return nil, errAudiences
	}
	if resp.User != nil {
		t.Status.User = info(resp.User)
		t.Status.Audiences = resp.Audiences
	}
	return t, nil
}

func info(u user.Info) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: map[string]authenticationv1.ExtraValue{}}
	for k, v := range u.GetExtra() {
		out.Extra[k] = v
	}
	return out
}
