// Package bootstraptoken makes, lists and checks the tokens with which a node joins: Secrets of type
// bootstrap.kubernetes.io/token in kube-system. What an operator copies is the join token, which also pins the
// cluster's authority: mote1.<hash of its public key>.<id>.<secret>.
//
// Reads:  Secrets kube-system/bootstrap-token-*.
// Writes: the same, by Create and Delete.
package bootstraptoken

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
)

const (
	namespace    = metav1.NamespaceSystem
	namePrefix   = "bootstrap-token-"
	secretType   = corev1.SecretType("bootstrap.kubernetes.io/token")
	userPrefix   = "system:bootstrap:"
	defaultGroup = "system:bootstrappers"
	// NodeGroup is whom the cluster lets ask for a node's certificate.
	NodeGroup = "system:bootstrappers:mote:node"
	groupRule = `\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`

	keyID, keySecret, keyExpires = "token-id", "token-secret", "expiration"
	keyUsage, keyGroups, keyText = "usage-bootstrap-authentication", "auth-extra-groups", "description"
)

var (
	format = regexp.MustCompile(`\A([a-z0-9]{6})\.([a-z0-9]{16})\z`)
	group  = regexp.MustCompile(groupRule)
)

// GetSecret returns a Secret, or a NotFound API error.
type GetSecret func(ctx context.Context, namespace, name string) (*corev1.Secret, error)

// Authenticator is an authenticator.Token for bootstrap tokens.
type Authenticator struct {
	secret GetSecret
	now    func() time.Time
}

var _ authenticator.Token = (*Authenticator)(nil)

// New returns an authenticator.
func New(secret GetSecret) *Authenticator { return &Authenticator{secret: secret, now: time.Now} }

// AuthenticateToken says no, without an error, to what doesn't look like a bootstrap token or isn't a good one.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	m := format.FindStringSubmatch(token)
	if m == nil {
		return nil, false, nil
	}
	s, err := a.secret(ctx, namespace, namePrefix+m[1])
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("look up bootstrap token %s: %w", m[1], err)
	}
	groups, ok := check(s, m[1], m[2], a.now())
	if !ok {
		return nil, false, nil
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: userPrefix + m[1], Groups: groups}}, true, nil
}

// check judges a token by its Secret.
func check(s *corev1.Secret, id, secret string, now time.Time) (groups []string, ok bool) {
	if s.DeletionTimestamp != nil || s.Type != secretType || string(s.Data[keyID]) != id || string(s.Data[keyUsage]) != "true" {
		return nil, false
	}
	if subtle.ConstantTimeCompare(s.Data[keySecret], []byte(secret)) != 1 {
		return nil, false
	}
	if ends, err := expires(s); err != nil || !ends.IsZero() && !now.Before(ends) {
		return nil, false
	}
	groups = []string{defaultGroup}
	for g := range strings.SplitSeq(string(s.Data[keyGroups]), ",") {
		if g == "" || slices.Contains(groups, g) {
			continue
		}
		if !group.MatchString(g) {
			return nil, false
		}
		groups = append(groups, g)
	}
	return groups, true
}

// expires is zero for a token without an end.
func expires(s *corev1.Secret) (time.Time, error) {
	text := string(s.Data[keyExpires])
	if text == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, text)
}

// Token is one bootstrap token.
type Token struct {
	ID, Secret, Description string
	Groups                  []string
	Expires                 time.Time // zero: never
}

// Join is the text that the new node is given.
func (t Token) Join(caHash string) string { return "mote1." + caHash + "." + t.ID + "." + t.Secret }

// Create makes a token that ends after ttl; 0 means never.
func Create(ctx context.Context, c kubernetes.Interface, ttl time.Duration, description string) (Token, error) {
	if ttl < 0 {
		return Token{}, errors.New("a token's life can't be negative: give --ttl like 24h, or 0 for one without end")
	}
	t := Token{ID: random(6), Secret: random(16), Description: description, Groups: []string{NodeGroup}}
	data := map[string]string{
		keyID: t.ID, keySecret: t.Secret, keyUsage: "true", "usage-bootstrap-signing": "false", keyGroups: strings.Join(t.Groups, ","),
	}
	if description != "" {
		data[keyText] = description
	}
	if ttl > 0 {
		t.Expires = time.Now().Add(ttl).UTC().Truncate(time.Second)
		data[keyExpires] = t.Expires.Format(time.RFC3339)
	}
	_, err := c.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: namePrefix + t.ID, Namespace: namespace},
		Type:       secretType, StringData: data,
	}, metav1.CreateOptions{})
	if err != nil {
		return Token{}, fmt.Errorf("store the token: %w", err)
	}
	return t, nil
}

// List returns the tokens that exist, ended ones too, in the order of their ids.
func List(ctx context.Context, c kubernetes.Interface) ([]Token, error) {
	l, err := c.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(secretType)})
	if err != nil {
		return nil, fmt.Errorf("list the tokens: %w", err)
	}
	var tokens []Token
	for _, s := range l.Items {
		if !strings.HasPrefix(s.Name, namePrefix) {
			continue
		}
		t := Token{ID: string(s.Data[keyID]), Secret: string(s.Data[keySecret]), Description: string(s.Data[keyText])}
		t.Expires, _ = expires(&s)
		for g := range strings.SplitSeq(string(s.Data[keyGroups]), ",") {
			if g != "" {
				t.Groups = append(t.Groups, g)
			}
		}
		tokens = append(tokens, t)
	}
	slices.SortFunc(tokens, func(a, b Token) int { return strings.Compare(a.ID, b.ID) })
	return tokens, nil
}

// ErrUnknown is Delete's answer to an id without a token.
var ErrUnknown = errors.New("no such token")

// Delete ends a token. It takes the id, a whole bootstrap token or a join token.
func Delete(ctx context.Context, c kubernetes.Interface, token string) error {
	id := token
	if parts := strings.Split(token, "."); len(parts) == 4 && parts[0] == "mote1" {
		id = parts[2]
	} else if len(parts) == 2 {
		id = parts[0]
	}
	if !regexp.MustCompile(`\A[a-z0-9]{6}\z`).MatchString(id) {
		return fmt.Errorf("%q is neither a token nor its 6-character id: see `mote token list`", token)
	}
	err := c.CoreV1().Secrets(namespace).Delete(ctx, namePrefix+id, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%s: %w", id, ErrUnknown)
	}
	if err != nil {
		return fmt.Errorf("delete token %s: %w", id, err)
	}
	return nil
}

const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"

func random(n int) string {
	out := make([]byte, 0, n)
	buf := make([]byte, 1)
	for len(out) < n {
		_, _ = rand.Read(buf) // never fails (crypto/rand)
		if int(buf[0]) < 252 {
			out = append(out, alphabet[int(buf[0])%len(alphabet)])
		}
	}
	return string(out)
}
