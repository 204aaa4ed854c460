// Command dradriver is a driver of resource claims for trying things out: it registers with the kubelet of -kubelet-dir,
// prepares a claim as one CDI device that sets the variable DRA_CLAIM, and says what it does. Slices
// are published by hand (docs/devices.md).
//
// Reads:  flags.
// Writes: its sockets in -kubelet-dir, descriptions in -cdi-dir.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	draapi "k8s.io/kubelet/pkg/apis/dra/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type driver struct {
	draapi.UnimplementedDRAPluginServer
	registerapi.UnimplementedRegistrationServer
	name, endpoint, cdi string
}

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "dradriver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	name := flag.String("name", "test.example.com", "the driver's name")
	dir := flag.String("kubelet-dir", "/var/lib/kubelet", "the kubelet's directory of plugins")
	cdi := flag.String("cdi-dir", "/var/run/cdi", "where CDI descriptions go")
	flag.Parse()
	own := filepath.Join(*dir, "plugins", *name)
	for _, d := range []string{own, *cdi} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	d := &driver{name: *name, endpoint: filepath.Join(own, "dra.sock"), cdi: *cdi}
	serve := func(socket string, register func(*grpc.Server)) (*grpc.Server, error) {
		if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		l, err := net.Listen("unix", socket)
		if err != nil {
			return nil, err
		}
		s := grpc.NewServer()
		register(s)
		go func() { _ = s.Serve(l) }() // until it is stopped
		return s, nil
	}
	plugin, err := serve(d.endpoint, func(s *grpc.Server) { draapi.RegisterDRAPluginServer(s, d) })
	if err != nil {
		return err
	}
	defer plugin.Stop()
	registrar, err := serve(filepath.Join(*dir, "plugins_registry", *name+"-reg.sock"), func(s *grpc.Server) { registerapi.RegisterRegistrationServer(s, d) })
	if err != nil {
		return err
	}
	defer registrar.Stop()
	<-ctx.Done()
	return nil
}

// GetInfo implements the registration API.
func (d *driver) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.DRAPlugin, Name: d.name, Endpoint: d.endpoint, SupportedVersions: []string{draapi.DRAPluginService}}, nil
}

// NotifyRegistrationStatus implements the registration API.
func (d *driver) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	fmt.Println("registered", s.GetPluginRegistered(), s.GetError())
	return &registerapi.RegistrationStatusResponse{}, nil
}

func (d *driver) file(uid string) string {
	return filepath.Join(d.cdi, strings.ReplaceAll(d.name, "/", "_")+"-"+uid+".json")
}

// NodePrepareResources implements the driver API.
func (d *driver) NodePrepareResources(_ context.Context, req *draapi.NodePrepareResourcesRequest) (*draapi.NodePrepareResourcesResponse, error) {
	out := &draapi.NodePrepareResourcesResponse{Claims: map[string]*draapi.NodePrepareResourceResponse{}}
	for _, c := range req.GetClaims() {
		fmt.Println("prepare", c.GetNamespace()+"/"+c.GetName())
		edits := map[string]any{"env": []string{"DRA_CLAIM=" + c.GetName()}}
		description := map[string]any{
			"cdiVersion": "0.6.0", "kind": d.name + "/claim", "containerEdits": map[string]any{},
			"devices": []any{map[string]any{"name": c.GetUid(), "containerEdits": edits}},
		}
		b, err := json.Marshal(description)
		if err == nil {
			err = os.WriteFile(d.file(c.GetUid()), b, 0o644)
		}
		r := &draapi.NodePrepareResourceResponse{Devices: []*draapi.Device{{PoolName: "node", DeviceName: "all", CdiDeviceIds: []string{d.name + "/claim=" + c.GetUid()}}}}
		if err != nil {
			r = &draapi.NodePrepareResourceResponse{Error: err.Error()}
		}
		out.Claims[c.GetUid()] = r
	}
	return out, nil
}

// NodeUnprepareResources implements the driver API.
func (d *driver) NodeUnprepareResources(_ context.Context, req *draapi.NodeUnprepareResourcesRequest) (*draapi.NodeUnprepareResourcesResponse, error) {
	out := &draapi.NodeUnprepareResourcesResponse{Claims: map[string]*draapi.NodeUnprepareResourceResponse{}}
	for _, c := range req.GetClaims() {
		fmt.Println("unprepare", c.GetNamespace()+"/"+c.GetName())
		r := &draapi.NodeUnprepareResourceResponse{}
		if err := os.Remove(d.file(c.GetUid())); err != nil && !errors.Is(err, os.ErrNotExist) {
			r.Error = err.Error()
		}
		out.Claims[c.GetUid()] = r
	}
	return out, nil
}
