// Package satoken issues and verifies service-account tokens: JSON web tokens (RFC 7519) signed with ES256, bound to a
// service account and, if asked for, to a pod, secret or node. It also publishes the keys, for OpenID Connect discovery.
//
// Reads: service accounts, pods, secrets and nodes, to tell whether what a token is bound to still exists.
// Writes: nothing.
package satoken

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mote-edge/mote/controlplane/registry/resource"
)

// Private is the "kubernetes.io" claim.
type Private struct {
	Namespace      string           `json:"namespace,omitempty"`
	ServiceAccount Ref              `json:"serviceaccount"`
	Pod            *Ref             `json:"pod,omitempty"`
	Secret         *Ref             `json:"secret,omitempty"`
	Node           *Ref             `json:"node,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

// Ref names one object for all its life.
type Ref struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// claims is a token's body as it is read.
type claims struct {
	jwt.RegisteredClaims
	Kubernetes *Private `json:"kubernetes.io,omitempty"`
}

// signed is a token's body as it is written.
type signed struct {
	jwt.RegisteredClaims
	Kubernetes any `json:"kubernetes.io,omitempty"`
}

// Issuer signs tokens.
type Issuer struct {
	url string
	key *ecdsa.PrivateKey
	id  string
}

var _ resource.TokenSource = (*Issuer)(nil)

// NewIssuer returns a signer whose tokens name url as their issuer.
func NewIssuer(url string, key *ecdsa.PrivateKey) (*Issuer, error) {
	id, err := keyID(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return &Issuer{url: url, key: key, id: id}, nil
}

// keyID is derived from the key, so that it stays the same over restarts.
func keyID(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode the service-account key: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// Sign returns a token.
func (i *Issuer) Sign(_ context.Context, c resource.TokenClaims) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodES256, signed{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    i.url,
			Subject:   c.Subject,
			Audience:  jwt.ClaimStrings(c.Audiences),
			IssuedAt:  jwt.NewNumericDate(c.IssuedAt),
			NotBefore: jwt.NewNumericDate(c.NotBefore),
			ExpiresAt: jwt.NewNumericDate(c.Expires),
			ID:        c.ID,
		},
		Kubernetes: c.Private,
	})
	t.Header["kid"] = i.id
	s, err := t.SignedString(i.key)
	if err != nil {
		return "", fmt.Errorf("sign the token of %s: %w", c.Subject, err)
	}
	return s, nil
}
