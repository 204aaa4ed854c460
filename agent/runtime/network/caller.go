package network

import (
	"context"
	"os"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"
)

// Plugin is a CNI plugin that is called in this process: it gets the variables and the configuration that its program would
// get, and returns what that would print. It may be called by many at once.
type Plugin func(ctx context.Context, environ []string, config []byte) ([]byte, error)

// caller starts plugins' programs, except those that are built in: a program of its own costs a pod start more than what it
// does (docs/adr/0306).
type caller struct {
	invoke.DefaultExec
	builtIn map[string]Plugin
}

var _ invoke.Exec = (*caller)(nil)

func newCaller(builtIn map[string]Plugin) *caller {
	return &caller{invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: os.Stderr}, PluginDecoder: version.PluginDecoder{}}, builtIn}
}

// FindInPath returns what ExecPlugin wants to be told: a built-in plugin's type, or a program's path.
func (c *caller) FindInPath(plugin string, paths []string) (string, error) {
	if c.builtIn[plugin] != nil {
		return plugin, nil
	}
	return c.DefaultExec.FindInPath(plugin, paths)
}

func (c *caller) ExecPlugin(ctx context.Context, path string, config []byte, environ []string) ([]byte, error) {
	if call := c.builtIn[path]; call != nil {
		return call(ctx, environ, config)
	}
	return c.DefaultExec.ExecPlugin(ctx, path, config, environ)
}
