package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"

	agentpki "github.com/mote-edge/mote/agent/pki"
	"github.com/mote-edge/mote/cmd/internal/nodeproc"
	"github.com/mote-edge/mote/controlplane"
	"github.com/mote-edge/mote/controlplane/pki"
)

// runNode runs this machine's node beside the control plane. It uses the API as every node does: with an identity of
// its own, which here is signed directly instead of through a token and a request.
func runNode(ctx context.Context, s *controlplane.Server, node nodeproc.Config) error {
	select {
	case <-s.Ready():
	case <-ctx.Done():
		return nil
	}
	dir := filepath.Join(node.Agent.Dirs.Agent(), "pki")
	have, err := agentpki.Load(dir, node.Agent.NodeName)
	if err != nil || have.Host != s.URL() || string(have.CAData) != string(s.PKI().CA.CertPEM) {
		if have, err = identity(s, dir, node.Agent.NodeName); err != nil {
			return err
		}
	}
	node.Agent.REST = have
	return nodeproc.Run(ctx, "server", node)
}

// identity signs a certificate for the local node and leaves it where agent/pki finds and later renews it.
func identity(s *controlplane.Server, dir, node string) (*rest.Config, error) {
	pair, err := s.PKI().CA.Issue(pki.NodeSubject(node), time.Now())
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the node's certificates: %w", err)
	}
	err = errors.Join(
		pki.WriteFile(filepath.Join(dir, "ca.crt"), s.PKI().CA.CertPEM),
		pki.WriteFile(filepath.Join(dir, "client.pem"), append(pair.KeyPEM, pair.CertPEM...)),
		pki.WriteFile(filepath.Join(dir, "server"), []byte(s.URL()+"\n")), // last: with it the identity is complete
	)
	if err != nil {
		return nil, err
	}
	return agentpki.Load(dir, node)
}
