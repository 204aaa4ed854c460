// Package network attaches sandboxes to the pod network through CNI plugins.
//
// Reads:  the CNI configuration directory; the environments of running plugins.
// Writes: nothing itself: plugins make and remove interfaces, addresses and rules; libcni's result cache.
package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CNI calls the plugins. The configuration is read again when its directory or file changed.
type CNI struct {
	confDir string
	cni     *libcni.CNIConfig

	mu     sync.Mutex
	list   *libcni.NetworkConfigList
	path   string
	loaded time.Time
}

// ErrNone: there is no configuration (yet).
var ErrNone = errors.New("cni plugin not initialized")

// New returns the caller of the plugins in binDirs, and of those that are built in, by their type. It looks at nothing yet.
func New(confDir string, binDirs []string, cacheDir string, builtIn map[string]Plugin) *CNI {
	return &CNI{confDir: confDir, cni: libcni.NewCNIConfigWithCacheDir(binDirs, cacheDir, newCaller(builtIn))}
}

// Config returns the first configuration in the directory, in the order of names.
func (n *CNI) Config() (*libcni.NetworkConfigList, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	files, err := libcni.ConfFiles(n.confDir, []string{".conf", ".conflist", ".json"})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read CNI configuration: %w", err)
	}
	if len(files) == 0 {
		n.list = nil
		return nil, fmt.Errorf("%w: no network config found in %s", ErrNone, n.confDir)
	}
	slices.Sort(files)
	info, err := os.Stat(files[0])
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration: %w", err)
	}
	if n.list != nil && n.path == files[0] && info.ModTime().Equal(n.loaded) {
		return n.list, nil
	}
	list, err := n.load(files[0])
	if err != nil {
		return nil, fmt.Errorf("CNI configuration %s: %w", files[0], err)
	}
	n.list, n.path, n.loaded = list, files[0], info.ModTime()
	return list, nil
}

func (n *CNI) load(path string) (*libcni.NetworkConfigList, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if filepath.Ext(path) == ".conflist" {
		return libcni.NetworkConfFromBytes(raw)
	}
	single, err := libcni.NetworkPluginConfFromBytes(raw)
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromConf(single)
}

// Interface is the name of a pod's own interface.
const Interface = "eth0"

// RuntimeConf is what plugins are told about one sandbox.
func RuntimeConf(id, netns string, config *cri.PodSandboxConfig) (*libcni.RuntimeConf, error) {
	meta := config.GetMetadata()
	rt := &libcni.RuntimeConf{
		ContainerID: id, NetNS: netns, IfName: Interface,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", meta.GetNamespace()},
			{"K8S_POD_NAME", meta.GetName()},
			{"K8S_POD_INFRA_CONTAINER_ID", id},
			{"K8S_POD_UID", meta.GetUid()},
		},
		CapabilityArgs: map[string]any{},
	}
	var ports []map[string]any
	for _, p := range config.GetPortMappings() {
		if p.HostPort <= 0 {
			continue
		}
		ports = append(ports, map[string]any{
			"hostPort": p.HostPort, "containerPort": p.ContainerPort,
			"protocol": strings.ToLower(p.Protocol.String()), "hostIP": p.HostIp,
		})
	}
	if len(ports) > 0 {
		rt.CapabilityArgs["portMappings"] = ports
	}
	bandwidth := map[string]any{}
	for annotation, keys := range map[string][2]string{
		"kubernetes.io/ingress-bandwidth": {"ingressRate", "ingressBurst"},
		"kubernetes.io/egress-bandwidth":  {"egressRate", "egressBurst"},
	} {
		text := config.GetAnnotations()[annotation]
		if text == "" {
			continue
		}
		rate, err := parseRate(text)
		if err != nil {
			return nil, fmt.Errorf("annotation %s: %w", annotation, err)
		}
		bandwidth[keys[0]], bandwidth[keys[1]] = rate, uint64(1<<31-1)
	}
	if len(bandwidth) > 0 {
		rt.CapabilityArgs["bandwidth"] = bandwidth
	}
	return rt, nil
}

// parseRate reads a Kubernetes quantity of bits per second.
func parseRate(text string) (uint64, error) {
	for suffix, factor := range map[string]float64{
		"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "": 1,
	} {
		number, found := strings.CutSuffix(text, suffix)
		if !found {
			continue
		}
		value, err := strconv.ParseFloat(number, 64)
		if rate := value * factor; err == nil && rate >= 1 && rate < 1<<63 { // not so for what is no number
			return uint64(rate), nil
		}
	}
	return 0, fmt.Errorf("%q is not a bandwidth such as 10M", text)
}

// Attach calls ADD and returns the pod's addresses, the interface's own family order kept.
func (n *CNI) Attach(ctx context.Context, rt *libcni.RuntimeConf) ([]string, error) {
	list, err := n.Config()
	if err != nil {
		return nil, err
	}
	raw, err := n.cni.AddNetworkList(ctx, list, rt)
	if err != nil {
		return nil, fmt.Errorf("plugin type=%q failed (add): %w", list.Plugins[0].Network.Type, err)
	}
	ips, err := addresses(raw)
	if err == nil && len(ips) == 0 {
		err = errors.New("the pod got no address")
	}
	if err != nil {
		return nil, fmt.Errorf("result of CNI network %q: %w", list.Name, err)
	}
	return ips, nil
}

// addresses are the pod's own in a plugin's result, which may hold anything.
func addresses(raw types.Result) ([]string, error) {
	result, err := types100.NewResultFromResult(raw)
	if err != nil {
		return nil, err
	}
	var ips []string
	for _, ip := range result.IPs {
		if ip == nil {
			continue
		}
		if ip.Interface != nil && *ip.Interface < len(result.Interfaces) && *ip.Interface >= 0 && result.Interfaces[*ip.Interface] == nil {
			return nil, fmt.Errorf("interface %d is null", *ip.Interface)
		}
		if ip.Interface != nil && *ip.Interface >= 0 && *ip.Interface < len(result.Interfaces) &&
			result.Interfaces[*ip.Interface].Sandbox == "" {
			continue // an address of the host's end
		}
		if ip.Address.IP.To16() == nil {
			return nil, fmt.Errorf("%q is no address", ip.Address.String())
		}
		ips = append(ips, ip.Address.IP.String())
	}
	return ips, nil
}

// Detach calls DEL with the configuration that ADD had; nothing to detach is success.
func (n *CNI) Detach(ctx context.Context, rt *libcni.RuntimeConf) error {
	list, err := n.Config()
	if err != nil {
		return err
	}
	if err := n.cni.DelNetworkList(ctx, list, rt); err != nil {
		return fmt.Errorf("plugin type=%q failed (delete): %w", list.Plugins[0].Network.Type, err)
	}
	return nil
}

// Collects tells whether Collect reaches the plugins themselves, or only what libcni has written down.
func (n *CNI) Collects() bool {
	list, err := n.Config()
	if err != nil || list.DisableGC {
		return errors.Is(err, ErrNone) // without a configuration nothing was added
	}
	collects, err := version.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0")
	return err == nil && collects
}

// Stale tells whether there are attachments of sandboxes that aren't among these: reason enough for Collect, which starts
// a program.
func (n *CNI) Stale(sandboxIDs []string) bool {
	cached, err := n.cni.GetCachedAttachments("")
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	return slices.ContainsFunc(cached, func(a *libcni.NetworkAttachment) bool { return !slices.Contains(sandboxIDs, a.ContainerID) })
}

// Collect has the plugins free what belongs to no known sandbox (CNI 1.1 GC).
func (n *CNI) Collect(ctx context.Context, sandboxIDs []string) error {
	list, err := n.Config()
	if errors.Is(err, ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, id := range sandboxIDs {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: id, IfName: Interface})
	}
	if err := n.cni.GCNetworkList(ctx, list, args); err != nil {
		return fmt.Errorf("CNI GC: %w", err)
	}
	return nil
}

// AwaitPlugins waits until no plugin works for a sandbox any more: one that an earlier runtime called may still be
// adding what is about to be deleted.
func AwaitPlugins(sandboxID string) {
	mark := []byte("CNI_CONTAINERID=" + sandboxID)
	for wait := time.Millisecond; wait < 5*time.Second; wait *= 2 {
		busy := false
		environments, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, path := range environments {
			if raw, err := os.ReadFile(path); err == nil && bytes.Contains(raw, mark) {
				busy = true
				break
			}
		}
		if !busy {
			return
		}
		time.Sleep(wait)
	}
}
