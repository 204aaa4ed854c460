package satoken

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Objects finds what tokens are bound to. Not found is an error like any other: the token is refused.
type Objects interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
}

// Verifier is an authenticator.Token for the tokens of one issuer.
type Verifier struct {
	url       string
	key       *ecdsa.PublicKey
	audiences authenticator.Audiences
	objects   Objects
	parser    *jwt.Parser
}

var _ authenticator.Token = (*Verifier)(nil)

// NewVerifier accepts tokens of the issuer that carry one of the audiences, or one that the caller asked for.
func NewVerifier(issuer *Issuer, audiences authenticator.Audiences, objects Objects) *Verifier {
	return &Verifier{
		url: issuer.url, key: &issuer.key.PublicKey, audiences: audiences, objects: objects,
		parser: jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}), jwt.WithIssuer(issuer.url),
			jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(10*time.Second)),
	}
}

// AuthenticateToken tells whose token it is. A token of another issuer isn't ours to judge.
func (v *Verifier) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if !v.ours(token) {
		return nil, false, nil
	}
	var c claims
	if _, err := v.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return v.key, nil }); err != nil {
		return nil, false, fmt.Errorf("service account token: %w", err)
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		wanted = v.audiences
	}
	auds := authenticator.Audiences(c.Audience).Intersect(wanted)
	if len(auds) == 0 && len(v.audiences) > 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", c.Audience, wanted)
	}
	if c.Kubernetes == nil {
		return nil, false, errors.New("service account token has no kubernetes.io claim")
	}
	info, err := v.check(ctx, c)
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: info, Audiences: auds}, true, nil
}

// ours reads the issuer without a check of the signature, to leave other issuers' tokens to other authenticators.
func (v *Verifier) ours(token string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	return json.Unmarshal(body, &c) == nil && c.Issuer == v.url
}

var errInvalidated = errors.New("service account token has been invalidated")

// check compares the token's references with what exists now.
func (v *Verifier) check(ctx context.Context, c claims) (*user.DefaultInfo, error) {
	k := c.Kubernetes
	ns := k.Namespace
	sa, err := v.objects.ServiceAccount(ctx, ns, k.ServiceAccount.Name)
	if err != nil {
		return nil, fmt.Errorf("service account %s/%s: %w", ns, k.ServiceAccount.Name, err)
	}
	if serviceaccount.MakeUsername(ns, k.ServiceAccount.Name) != c.Subject {
		return nil, errors.New("service account token's subject does not match its claims")
	}
	if err := alive(sa, k.ServiceAccount.UID); err != nil {
		return nil, err
	}
	info := serviceaccount.ServiceAccountInfo{Name: sa.Name, Namespace: ns, UID: string(sa.UID)}
	if c.ID != "" {
		info.CredentialID = "JTI=" + c.ID
	}
	if k.Secret != nil {
		s, err := v.objects.Secret(ctx, ns, k.Secret.Name)
		if err != nil {
			return nil, fmt.Errorf("secret of the token: %w", err)
		}
		if err := alive(s, k.Secret.UID); err != nil {
			return nil, err
		}
	}
	if k.Pod != nil {
		p, err := v.objects.Pod(ctx, ns, k.Pod.Name)
		if err != nil {
			return nil, fmt.Errorf("pod of the token: %w", err)
		}
		if err := alive(p, k.Pod.UID); err != nil {
			return nil, err
		}
		info.PodName, info.PodUID = k.Pod.Name, k.Pod.UID
	}
	if k.Node != nil {
		info.NodeName, info.NodeUID = k.Node.Name, k.Node.UID
		// With a pod as well, the node is told for information; alone it is what the token is bound to.
		if k.Pod == nil {
			n, err := v.objects.Node(ctx, k.Node.Name)
			if err != nil {
				return nil, fmt.Errorf("node of the token: %w", err)
			}
			if err := alive(n, k.Node.UID); err != nil {
				return nil, err
			}
		}
	}
	u, ok := info.UserInfo().(*user.DefaultInfo)
	if !ok {
		return nil, errors.New("service account info has an unknown type")
	}
	return u, nil
}

// graceAfterDeletion lets a pod that is being deleted use its token for a minute longer than its grace period.
const graceAfterDeletion = time.Minute

func alive(o metav1.Object, uid string) error {
	if string(o.GetUID()) != uid {
		return errInvalidated
	}
	if d := o.GetDeletionTimestamp(); d != nil && time.Now().After(d.Add(graceAfterDeletion)) {
		return errInvalidated
	}
	return nil
}
