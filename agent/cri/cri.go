// Package cri is the node's side of the container runtime interface: a thin client of CRI v1, the compact model of what
// the runtime runs, and the watcher that keeps that model true from the runtime's event stream. Nothing here polls; the
// runtime is listed once after each (re)connection.
//
// Reads:  the runtime's sandboxes, containers and events.
// Writes: the in-memory picture of them (Cache).
package cri

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/meter"
)

// The labels and annotations on sandboxes and containers, as the upstream kubelet sets them, so that crictl, log
// collectors and monitoring find what they look for.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"

	AnnotationHash                 = "io.kubernetes.container.hash"
	AnnotationRestartCount         = "io.kubernetes.container.restartCount"
	AnnotationTerminationMsgPath   = "io.kubernetes.container.terminationMessagePath"
	AnnotationTerminationMsgPolicy = "io.kubernetes.container.terminationMessagePolicy"
	AnnotationGracePeriod          = "io.kubernetes.pod.terminationGracePeriod"
)

// maxMessage bounds one CRI message: 16 MiB, as upstream's client.
const maxMessage = 16 << 20

// Client is a connection to one runtime. The generated clients are embedded as they are: no wrapper calls.
type Client struct {
	runtimeapi.RuntimeServiceClient
	Images runtimeapi.ImageServiceClient
	Tally  *meter.Tally // counts lists and event streams; nil counts nothing
	conn   *grpc.ClientConn
	seen   lastSeen
}

// Dial prepares a client for endpoint (unix:///path or a bare path). It doesn't wait for the runtime: calls fail until
// it answers, and the connection comes back by itself after the runtime was restarted.
func Dial(endpoint string, options ...grpc.DialOption) (*Client, error) {
	if endpoint == "" {
		return nil, errors.New("no container runtime endpoint: give one with --container-runtime-endpoint")
	}
	if endpoint[0] == '/' {
		endpoint = "unix://" + endpoint
	}
	conn, err := grpc.NewClient(endpoint, append(options,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithIdleTimeout(0), // the event stream lives as long as we do
		// A restarted runtime must be found again at once, so the back-off stays short.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}))...)
	if err != nil {
		return nil, fmt.Errorf("container runtime endpoint %q: %w", endpoint, err)
	}
	return &Client{RuntimeServiceClient: runtimeapi.NewRuntimeServiceClient(conn), Images: runtimeapi.NewImageServiceClient(conn), conn: conn}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// WaitReady blocks until the runtime answers its version, or ctx ends.
func (c *Client) WaitReady(ctx context.Context) (*runtimeapi.VersionResponse, error) {
	v, err := c.Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("container runtime doesn't answer: %w", err)
	}
	return v, nil
}

// IsNotFound tells whether a CRI error says that the object is gone.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }

// IsAway tells whether a CRI call failed because the runtime is away: it has died, and comes back.
func IsAway(err error) bool { return status.Code(err) == codes.Unavailable }

// Message is what the runtime said, without gRPC's frame.
func Message(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

// Text is the error as events show it: gRPC's code and the runtime's message.
func Text(err error) string {
	if s, ok := status.FromError(err); ok && s.Code() != codes.OK {
		return fmt.Sprintf("rpc error: code = %s desc = %s", s.Code(), s.Message())
	}
	return err.Error()
}
