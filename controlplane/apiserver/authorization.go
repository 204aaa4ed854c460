package apiserver

import (
	"fmt"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/mote-edge/mote/controlplane/apiserver/nodeauthz"
	"github.com/mote-edge/mote/controlplane/apiserver/rbac"
)

// authorization says who may do what: system:masters everything, nodes what their pods need, the rest by RBAC.
func (s *Server) authorization(c *genericapiserver.Config) error {
	nodeRules, err := rbac.NodeRules()
	if err != nil {
		return err
	}
	s.rbac = rbac.New(rbac.FromInformers(s.informers))
	authz, err := union.New(
		union.NamedAuthorizer{AuthorizerName: "Privileged", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		union.NamedAuthorizer{AuthorizerName: "Node", Authorizer: nodeauthz.New(&nodeObjects{s.client, &s.stores}, nodeRules)},
		union.NamedAuthorizer{AuthorizerName: "RBAC", Authorizer: s.rbac},
	)
	if err != nil {
		return fmt.Errorf("join the authorizers: %w", err)
	}
	c.Authorization.Authorizer = authz
	c.RuleResolver = s.rbac
	return nil
}
