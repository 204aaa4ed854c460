package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// registry is the service that plugins register with.
type registry struct {
	pluginapi.UnimplementedRegistrationServer
	plugins *Plugins
}

var _ pluginapi.RegistrationServer = registry{}

// Register implements the plugin API.
func (r registry) Register(ctx context.Context, req *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	if err := r.plugins.Validate(req.GetResourceName(), req.GetEndpoint(), []string{req.GetVersion()}); err != nil {
		r.plugins.cfg.Log.Warn("device plugin refused", "resource", req.GetResourceName(), "err", err)
		return nil, err
	}
	if req.GetEndpoint() != filepath.Base(req.GetEndpoint()) {
		return nil, fmt.Errorf("endpoint %q is not the name of a socket in %s", req.GetEndpoint(), r.plugins.cfg.Dir)
	}
	return &pluginapi.Empty{}, r.plugins.connect(ctx, req.GetResourceName(), filepath.Join(r.plugins.cfg.Dir, req.GetEndpoint()))
}

// Validate tells whether a plugin may register (plugin.Handler).
func (p *Plugins) Validate(name, _ string, versions []string) error {
	if !slices.Contains(versions, pluginapi.Version) {
		return fmt.Errorf("requested API version %q is not supported by kubelet. Supported version is %q", strings.Join(versions, ","), pluginapi.SupportedVersions)
	}
	if !extended(name) {
		return fmt.Errorf("the ResourceName %q is invalid", name)
	}
	return nil
}

// extended tells whether a name is one that extended resources may have: with a domain that isn't Kubernetes' own, and
// still valid as the name of a quota.
func extended(name string) bool {
	domain, _, ok := strings.Cut(name, "/")
	return ok && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") &&
		!strings.HasPrefix(name, corev1.DefaultResourceRequestsPrefix) && len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+name)) == 0
}

// Register connects a plugin that was found in the plugins' registry (plugin.Handler).
func (p *Plugins) Register(ctx context.Context, name, endpoint string, _ []string) error {
	return p.connect(ctx, name, endpoint)
}

// Deregister ends the connection to a plugin that has left the registry (plugin.Handler).
func (p *Plugins) Deregister(name, endpoint string) { p.disconnect(name, endpoint) }

// Ready is closed once plugins can register.
func (p *Plugins) Ready() <-chan struct{} { return p.ready }

// Run takes registrations until ctx ends; it is called once. A new socket tells running plugins, which watch for it, to register anew.
func (p *Plugins) Run(ctx context.Context) error {
	if err := os.MkdirAll(p.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("directory of the device plugins: %w", err)
	}
	if err := removeSockets(p.cfg.Dir); err != nil {
		return fmt.Errorf("directory of the device plugins: %w", err)
	}
	socket := filepath.Join(p.cfg.Dir, "kubelet.sock")
	l, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("socket for device plugins %s: %w", socket, err)
	}
	close(p.ready)
	s := grpc.NewServer()
	pluginapi.RegisterRegistrationServer(s, registry{plugins: p})
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	err = s.Serve(l)
	p.stopAll()
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("socket for device plugins %s: %w", socket, err)
}

// removeSockets clears what plugins and an agent before this one have left; who still runs makes its socket anew.
func removeSockets(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSocket == 0 {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
