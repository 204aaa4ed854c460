// Package tokensecret fills in Secrets of type kubernetes.io/service-account-token, by which an administrator asks for a
// token that doesn't expire, and deletes them when their service account is gone.
//
// Such a token is bound to its Secret: it is worth nothing once that is deleted.
//
// Reads: Secrets of that type, ServiceAccounts. Writes: their data and the annotation with the account's UID; deletes them.
package tokensecret

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/mote-edge/mote/controlplane/controllers/keyqueue"
	"github.com/mote-edge/mote/controlplane/informer"
)

// life is as good as for ever: the API server wants tokens to have an end.
const life = 100 * 365 * 24 * time.Hour

// Config is what the controller is given.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Key       crypto.Signer // *ecdsa.PrivateKey on P-256, or *rsa.PrivateKey
	Issuer    string        // also the audience
	RootCA    []byte
}

// Controller works on Secrets.
type Controller struct {
	cfg      Config
	method   jwt.SigningMethod
	keyID    string
	accounts corelisters.ServiceAccountLister
	secrets  cache.SharedIndexInformer
	queue    *keyqueue.Queue[types.NamespacedName]
	synced   []cache.InformerSynced
}

// New registers with the informers and starts nothing.
func New(cfg Config) (*Controller, error) {
	c := &Controller{cfg: cfg, accounts: cfg.Informers.Core().V1().ServiceAccounts().Lister()}
	switch cfg.Key.(type) {
	case *ecdsa.PrivateKey:
		c.method = jwt.SigningMethodES256
	case *rsa.PrivateKey:
		c.method = jwt.SigningMethodRS256
	default:
		return nil, fmt.Errorf("service-account tokens can't be signed with a %T; an ECDSA P-256 or RSA key is needed", cfg.Key)
	}
	der, err := x509.MarshalPKIXPublicKey(cfg.Key.Public())
	if err != nil {
		return nil, fmt.Errorf("service-account key: %w", err)
	}
	sum := sha256.Sum256(der)
	c.keyID = base64.RawURLEncoding.EncodeToString(sum[:])
	c.queue = keyqueue.New("tokensecret", 1, c.reconcile)
	c.secrets = coreinformers.NewFilteredSecretInformer(cfg.Client, metav1.NamespaceAll, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("type", string(corev1.SecretTypeServiceAccountToken)).String()
	})
	if err := c.secrets.SetTransform(informer.Trim); err != nil {
		return nil, err
	}
	secrets, err := keyqueue.WatchChanges(c.secrets, func(_, s *corev1.Secret, gone bool) {
		if !gone && s.Type == corev1.SecretTypeServiceAccountToken {
			c.queue.Add(types.NamespacedName{Namespace: s.Namespace, Name: s.Name})
		}
	})
	if err != nil {
		return nil, err
	}
	accounts, err := keyqueue.WatchChanges(cfg.Informers.Core().V1().ServiceAccounts().Informer(), func(old, a *corev1.ServiceAccount, gone bool) {
		if !gone && old != nil {
			return
		}
		of, err := c.secrets.GetIndexer().ByIndex(cache.NamespaceIndex, a.Namespace)
		if err != nil {
			return // only if the index is missing
		}
		for _, o := range of {
			s := o.(*corev1.Secret)
			c.queue.Add(types.NamespacedName{Namespace: s.Namespace, Name: s.Name})
		}
	})
	c.synced = []cache.InformerSynced{secrets, accounts}
	return c, err
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	go c.secrets.RunWithContext(ctx)
	return c.queue.RunWhenSynced(ctx, c.synced...)
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	o, exists, err := c.secrets.GetIndexer().GetByKey(key.String())
	if err != nil || !exists {
		return err
	}
	s := o.(*corev1.Secret)
	name, uid := s.Annotations[corev1.ServiceAccountNameKey], s.Annotations[corev1.ServiceAccountUIDKey]
	if s.DeletionTimestamp != nil || name == "" {
		return nil
	}
	account, err := c.accounts.ServiceAccounts(key.Namespace).Get(name)
	if apierrors.IsNotFound(err) { // the cache may be behind
		account, err = c.cfg.Client.CoreV1().ServiceAccounts(key.Namespace).Get(ctx, name, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err), err == nil && uid != "" && uid != string(account.UID):
		err := c.cfg.Client.CoreV1().Secrets(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("secret %s: %w", key, err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("service account %s/%s: %w", key.Namespace, name, err)
	}
	return c.fill(ctx, s, account)
}

func (c *Controller) fill(ctx context.Context, s *corev1.Secret, account *corev1.ServiceAccount) error {
	data := map[string][]byte{}
	if len(c.cfg.RootCA) > 0 && !bytes.Equal(s.Data[corev1.ServiceAccountRootCAKey], c.cfg.RootCA) {
		data[corev1.ServiceAccountRootCAKey] = c.cfg.RootCA
	}
	if len(s.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
		data[corev1.ServiceAccountNamespaceKey] = []byte(s.Namespace)
	}
	if len(s.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := c.sign(s, account)
		if err != nil {
			return fmt.Errorf("secret %s/%s: %w", s.Namespace, s.Name, err)
		}
		data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	if len(data) == 0 && s.Annotations[corev1.ServiceAccountUIDKey] == string(account.UID) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{
			"uid": s.UID, "resourceVersion": s.ResourceVersion,
			"annotations": map[string]string{corev1.ServiceAccountUIDKey: string(account.UID)},
		},
		"data": data,
	})
	if err != nil {
		return err
	}
	_, err = c.cfg.Client.CoreV1().Secrets(s.Namespace).Patch(ctx, s.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("secret %s/%s: %w", s.Namespace, s.Name, err)
	}
	return nil
}

type ref struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

type private struct {
	Namespace      string `json:"namespace"`
	ServiceAccount ref    `json:"serviceaccount"`
	Secret         ref    `json:"secret"`
}

type claims struct {
	jwt.RegisteredClaims
	Private private `json:"kubernetes.io"`
}

func (c *Controller) sign(s *corev1.Secret, account *corev1.ServiceAccount) (string, error) {
	if s.UID == "" || account.UID == "" {
		return "", errors.New("no UID to bind the token to")
	}
	now := time.Now()
	t := jwt.NewWithClaims(c.method, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: c.cfg.Issuer, Subject: serviceaccount.MakeUsername(account.Namespace, account.Name), Audience: jwt.ClaimStrings{c.cfg.Issuer},
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(life)),
		},
		Private: private{
			Namespace: s.Namespace, ServiceAccount: ref{account.Name, string(account.UID)}, Secret: ref{s.Name, string(s.UID)},
		},
	})
	t.Header["kid"] = c.keyID
	return t.SignedString(c.cfg.Key)
}
