package apiserver

import "context"

// bootstrap makes what a cluster begins with.
func (s *Server) bootstrap(ctx context.Context) error {
	return nil
}
