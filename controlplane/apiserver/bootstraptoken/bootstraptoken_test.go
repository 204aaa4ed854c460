package bootstraptoken

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func secret(change map[string]string) *corev1.Secret {
	data := map[string]string{
		"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
		"auth-extra-groups": "system:bootstrappers:mote:node", "expiration": "2026-01-02T00:00:00Z",
	}
	maps.Copy(data, change)
	s := &corev1.Secret{Type: secretType, Data: map[string][]byte{}}
	for k, v := range data {
		s.Data[k] = []byte(v)
	}
	return s
}

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		change map[string]string
		secret string
		want   bool
	}{
		"good":             {nil, "0123456789abcdef", true},
		"without end":      {map[string]string{"expiration": ""}, "0123456789abcdef", true},
		"wrong secret":     {nil, "0123456789abcdeg", false},
		"ended":            {map[string]string{"expiration": "2025-12-31T00:00:00Z"}, "0123456789abcdef", false},
		"end unreadable":   {map[string]string{"expiration": "tomorrow"}, "0123456789abcdef", false},
		"not for this use": {map[string]string{"usage-bootstrap-authentication": "false"}, "0123456789abcdef", false},
		"another id":       {map[string]string{"token-id": "zzzzzz"}, "0123456789abcdef", false},
		"a group too many": {map[string]string{"auth-extra-groups": "system:masters"}, "0123456789abcdef", false},
	} {
		groups, ok := check(secret(tc.change), "abcdef", tc.secret, now)
		if ok != tc.want {
			t.Errorf("%s: %v", name, ok)
		}
		if ok && !slices.Equal(groups, []string{"system:bootstrappers", NodeGroup}) {
			t.Errorf("%s: groups %v", name, groups)
		}
	}
	other := secret(nil)
	other.Type = corev1.SecretTypeOpaque
	if _, ok := check(other, "abcdef", "0123456789abcdef", now); ok {
		t.Error("an Opaque Secret passes as a token")
	}
}

func TestAuthenticateLeavesOtherTokensAlone(t *testing.T) {
	asked := 0
	a := New(func(context.Context, string, string) (*corev1.Secret, error) {
		asked++
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, "x")
	})
	for token, look := range map[string]int{
		"eyJhbGciOi.eyJ.sig": 0, "": 0, "abcdef.short": 0, "ABCDEF.0123456789abcdef": 0, "abcdef.0123456789abcdef\n": 0, "abcdef.0123456789abcdef": 1,
	} {
		asked = 0
		if r, ok, err := a.AuthenticateToken(t.Context(), token); r != nil || ok || err != nil || asked != look {
			t.Errorf("%q: %v %v %v, %d look-ups, want %d", token, r, ok, err, asked, look)
		}
	}
}

func TestRandomUsesItsAlphabet(t *testing.T) {
	seen := map[rune]bool{}
	for range 200 {
		s := random(16)
		if !format.MatchString("abcdef." + s) {
			t.Fatalf("%q is no secret", s)
		}
		for _, c := range s {
			seen[c] = true
		}
	}
	if len(seen) != len(alphabet) {
		t.Errorf("%d of %d characters are used", len(seen), len(alphabet))
	}
}
