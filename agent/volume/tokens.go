package volume

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// tokens holds the service-account tokens of the pods' volumes, so that a change elsewhere in a volume asks for no new
// one.
type tokens struct {
	api API
	now func() time.Time

	mu   sync.Mutex
	held map[tokenKey]heldToken
}

type heldToken struct {
	token   string
	expires time.Time
	refresh time.Time
}

type tokenKey struct {
	pod  types.UID
	file string
}

// get returns a token with at least a fifth of its life left, and when to ask again. If renewal fails, a token that
// still holds is given with an early date.
func (t *tokens) get(ctx context.Context, pod *corev1.Pod, name string, s *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	if t.api == nil {
		return "", time.Time{}, fmt.Errorf("service-account token: %w", errNoAPI)
	}
	key, now := tokenKey{pod.UID, name}, t.now()
	t.mu.Lock()
	held := t.held[key]
	t.mu.Unlock()
	if held.refresh.After(now) {
		return held.token, held.refresh, nil
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}, ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace}}
	if s.Audience != "" {
		request.Spec.Audiences = []string{s.Audience}
	}
	account := pod.Spec.ServiceAccountName
	answer, err := t.api.Token(ctx, pod.Namespace, account, request)
	if err != nil {
		if held.expires.After(now) {
			return held.token, now.Add(time.Minute), nil
		}
		return "", time.Time{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	expires := answer.Status.ExpirationTimestamp.Time
	held = heldToken{token: answer.Status.Token, expires: expires, refresh: refreshAt(now, expires)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held[key] = held
	return held.token, held.refresh, nil
}

func (t *tokens) forget(pod types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.held {
		if key.pod == pod {
			delete(t.held, key)
		}
	}
}
