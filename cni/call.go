package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	cniversion "github.com/containernetworking/cni/pkg/version"
)

// Call does in the caller's process what the program does in one of its own: environ are the CNI_* variables, config is what the
// program would read, and the result is what it would print. An error is a *types.Error, as a runtime makes one of what a
// program printed. CNI, 1.1.0, section 2.
func Call(ctx context.Context, environ []string, config []byte) ([]byte, error) {
	out, err := call(ctx, environ, config)
	var known *types.Error
	if err != nil && !errors.As(err, &known) {
		err = types.NewError(types.ErrInternal, err.Error(), "")
	}
	return out, err
}

func call(ctx context.Context, environ []string, config []byte) ([]byte, error) {
	env := map[string]string{}
	for _, entry := range environ {
		if name, value, found := strings.Cut(entry, "="); found {
			env[name] = value
		}
	}
	command := env["CNI_COMMAND"]
	if command == "VERSION" {
		var out bytes.Buffer
		err := versions().Encode(&out)
		return out.Bytes(), err
	}
	configured, err := (&cniversion.ConfigDecoder{}).Decode(config)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, err.Error(), "")
	}
	if err := (&cniversion.Reconciler{}).Check(configured, versions()); err != nil {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion, "incompatible CNI versions", err.Details())
	}
	args := &skel.CmdArgs{
		ContainerID: env["CNI_CONTAINERID"], Netns: env["CNI_NETNS"], IfName: env["CNI_IFNAME"], Args: env["CNI_ARGS"],
		Path: env["CNI_PATH"], StdinData: config,
	}
	switch command {
	case "ADD":
		result, err := add(ctx, args)
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer
		err = result.PrintTo(&out)
		return out.Bytes(), err
	case "DEL":
		return nil, del(ctx, args)
	case "CHECK":
		return nil, check(ctx, args)
	case "GC":
		return nil, gc(ctx, args)
	case "STATUS":
		return nil, status(ctx, args)
	}
	return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_COMMAND %q is unknown", command), "")
}
