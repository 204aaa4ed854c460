package pki

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/mote-edge/mote/internal/kubeclient"
)

// Errors of a join, for callers that act on them.
var (
	ErrToken  = errors.New("join token")
	ErrServer = errors.New("join server")
)

// Token is a join token: what the cluster's CA is, and what to say to it.
type Token struct {
	CAHash     string // sha256 of the CA's public key (SubjectPublicKeyInfo), hex
	ID, Secret string
}

var tokenShape = regexp.MustCompile(`^mote1\.([0-9a-f]{64})\.([a-z0-9]{6})\.([a-z0-9]{16})$`)

// ParseToken reads mote1.<hash>.<id>.<secret>.
func ParseToken(s string) (Token, error) {
	m := tokenShape.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return Token{}, fmt.Errorf("%w: it doesn't have the form mote1.<64 hex digits>.<6 characters>.<16 characters>: copy the whole output of `mote token create` on the server", ErrToken)
	}
	return Token{CAHash: m[1], ID: m[2], Secret: m[3]}, nil
}

// JoinConfig is how a node finds its cluster.
type JoinConfig struct {
	Server   string // https://host:6443
	Token    string
	NodeName string
	Dir      string
}

// Join returns the node's way to the API server: the one on disk if a node has joined before, else through the token.
func Join(ctx context.Context, cfg JoinConfig) (*rest.Config, error) {
	if have, err := Load(cfg.Dir, cfg.NodeName); err == nil && (cfg.Server == "" || have.Host == strings.TrimSuffix(cfg.Server, "/")) {
		return have, nil
	}
	if cfg.Server == "" || cfg.Token == "" {
		return nil, fmt.Errorf("%w: this node has not joined a cluster yet: give --server https://<host>:6443 and --token (from `mote token create` on the server)", ErrToken)
	}
	token, err := ParseToken(cfg.Token)
	if err != nil {
		return nil, err
	}
	server, err := serverURL(cfg.Server)
	if err != nil {
		return nil, err
	}
	ca, err := fetchCA(ctx, server, token.CAHash)
	if err != nil {
		return nil, err
	}
	client, err := kubeclient.New(&rest.Config{
		Host: server.String(), BearerToken: token.ID + "." + token.Secret, TLSClientConfig: rest.TLSClientConfig{CAData: encodeCert(ca.Raw)},
	})
	if err != nil {
		return nil, err
	}
	identity, err := firstIdentity(ctx, client.CertificateSigningRequests(), cfg.NodeName)
	switch {
	case apierrors.IsUnauthorized(err):
		return nil, fmt.Errorf("%w: %s doesn't know token %s: it has expired or was deleted; make another with `mote token create` on the server", ErrToken, server.Host, token.ID)
	case err != nil:
		return nil, fmt.Errorf("join %s: %w", server.Host, err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	// The server's name last: with it the identity is complete.
	err = errors.Join(writeFile(filepath.Join(cfg.Dir, caFile), encodeCert(ca.Raw)), writeFile(filepath.Join(cfg.Dir, clientFile), identity))
	if err == nil {
		err = writeFile(filepath.Join(cfg.Dir, serverFile), []byte(server.String()+"\n"))
	}
	if err != nil {
		return nil, err
	}
	return Load(cfg.Dir, cfg.NodeName)
}

// joinPatience is how long a server that has just begun may take to know what tokens may do.
const joinPatience = 10 * time.Second

// firstIdentity asks for the client certificate. A server that came up this moment forbids it until it has read its own
// rules, so that answer is asked for again for a while.
func firstIdentity(ctx context.Context, api CSRs, node string) ([]byte, error) {
	r := request{node: node, signer: certificatesv1.KubeAPIServerClientKubeletSignerName}
	for deadline := time.Now().Add(joinPatience); ; {
		identity, err := sign(ctx, api, r)
		if !apierrors.IsForbidden(err) || time.Now().After(deadline) {
			return identity, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}

func serverURL(s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSuffix(s, "/"))
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" {
		return nil, fmt.Errorf("%w: --server %q is not of the form https://<host>:6443", ErrServer, s)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "6443")
	}
	return u, nil
}

// fetchCA takes the cluster's CA from the chain that the server presents: the one with the token's hash, if the server
// itself is vouched for by it under the name that we call it. Nothing is sent before that.
func fetchCA(ctx context.Context, server *url.URL, hash string) (*x509.Certificate, error) {
	var ca *x509.Certificate
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection below is stricter: it knows the one CA that may be
		VerifyConnection: func(s tls.ConnectionState) error {
			var err error
			ca, err = pick(s.PeerCertificates, hash, server.Hostname())
			return err
		},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", server.Host)
	if err != nil {
		if errors.Is(err, ErrServer) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s doesn't answer: %w: is `mote server` running there, and is the port open?", ErrServer, server.Host, err)
	}
	return ca, conn.Close()
}

// pick finds the CA of a hash in a chain and verifies the chain's first certificate against it.
func pick(chain []*x509.Certificate, hash, host string) (*x509.Certificate, error) {
	i := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return HashOf(c) == hash })
	if i < 0 {
		return nil, fmt.Errorf("%w: %s shows no CA certificate with the token's hash: the token is of another cluster, or somebody stands between", ErrServer, host)
	}
	ca := chain[i]
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
		return nil, fmt.Errorf("%w: the certificate of %s: %w: name the server as it is called in its certificate (`mote server --advertise-address`)", ErrServer, host, err)
	}
	return ca, nil
}

// HashOf is the hash by which tokens name a CA.
func HashOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
