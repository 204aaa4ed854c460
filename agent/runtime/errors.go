package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mote-edge/mote/agent/runtime/image"
	"github.com/mote-edge/mote/agent/runtime/namespace"
)

// The errors that callers tell apart by gRPC code.
var (
	errNotFound = errors.New("not found")
	errExists   = errors.New("already exists")
	errInvalid  = errors.New("invalid argument")
	errState    = errors.New("wrong state")
	errTimeout  = errors.New("context deadline exceeded")
)

func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, already := status.FromError(err); already {
		return err
	}
	code := codes.Unknown
	switch {
	case errors.Is(err, errNotFound), errors.Is(err, image.ErrNotFound):
		code = codes.NotFound
	case errors.Is(err, errExists):
		code = codes.AlreadyExists
	case errors.Is(err, errInvalid), errors.Is(err, namespace.ErrSysctl):
		code = codes.InvalidArgument
	case errors.Is(err, errState):
		code = codes.FailedPrecondition
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	return status.Error(code, err.Error())
}

// guard turns errors into gRPC codes, and a panic into an error: nothing in a request may end the runtime.
func (s *Service) guard(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic in a CRI call", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
			err = status.Errorf(codes.Internal, "%s: internal error: %v", info.FullMethod, p)
		}
	}()
	if s.trim != nil {
		s.trim.Touch()
	}
	reply, err = handler(ctx, req)
	if err != nil {
		s.log.Debug("call failed", "method", info.FullMethod, "err", err)
	}
	return reply, toStatus(err)
}

// guardStream is guard for calls that answer with a stream.
func (s *Service) guardStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic in a CRI stream", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
			err = status.Errorf(codes.Internal, "%s: internal error: %v", info.FullMethod, p)
		}
	}()
	return toStatus(handler(srv, stream))
}

// ListenUnix listens on a socket that root alone may use, replacing one that a dead process left.
func ListenUnix(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("socket %s is in use: another runtime serves these directories", path)
	}
	_ = os.Remove(path)
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return listener, nil
}
