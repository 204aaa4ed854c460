package openapi

import (
	"net/http"
	"sync/atomic"

	genericapiserver "k8s.io/apiserver/pkg/server"
)

// Hidden is a chain of servers that the aggregator delegates to without reading their documents. It looks for those
// when it prepares to run; what delegates took the chain's handler before, when it was made.
type Hidden struct {
	genericapiserver.DelegationTarget
	hidden atomic.Bool
}

var _ genericapiserver.DelegationTarget = (*Hidden)(nil)

// Hide wraps a chain. Call Now when the server in front of it has been made.
func Hide(chain genericapiserver.DelegationTarget) *Hidden { return &Hidden{DelegationTarget: chain} }

// Now hides the chain.
func (h *Hidden) Now() { h.hidden.Store(true) }

// UnprotectedHandler is the chain's until it is hidden.
func (h *Hidden) UnprotectedHandler() http.Handler {
	if h.hidden.Load() {
		return nil
	}
	return h.DelegationTarget.UnprotectedHandler()
}

// NextDelegate is the chain's until it is hidden.
func (h *Hidden) NextDelegate() genericapiserver.DelegationTarget {
	if h.hidden.Load() {
		return nil
	}
	return h.DelegationTarget.NextDelegate()
}
