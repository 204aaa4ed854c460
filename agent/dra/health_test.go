package dra

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/types"
	healthapi "k8s.io/kubelet/pkg/apis/dra-health/v1"
	healthalpha "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	draapi "k8s.io/kubelet/pkg/apis/dra/v1"
)

// teller is a driver that tells of its devices' health.
type teller struct {
	healthapi.UnimplementedDRAResourceHealthServer
	say chan *healthapi.NodeWatchResourcesResponse // closed: the stream ends
}

func (f *teller) NodeWatchResources(_ *healthapi.NodeWatchResourcesRequest, s grpc.ServerStreamingServer[healthapi.NodeWatchResourcesResponse]) error {
	for {
		select {
		case <-s.Context().Done():
			return nil
		case r, ok := <-f.say:
			if !ok {
				return nil
			}
			if err := s.Send(r); err != nil {
				return err
			}
		}
	}
}

func TestReading(t *testing.T) {
	now := time.Unix(1000, 0)
	for want, d := range map[string]*healthapi.DeviceHealth{
		"Healthy  30s":     {Health: healthapi.HealthStatus_HEALTHY},
		"Unhealthy hot 5s": {Health: healthapi.HealthStatus_UNHEALTHY, Message: "hot", HealthCheckTimeoutSeconds: 5},
		"Unknown  30s":     {HealthCheckTimeoutSeconds: -1},
	} {
		h := reading(d, now)
		if got := fmt.Sprint(h.state, " ", h.message, " ", h.until.Sub(now)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if s := h.at(now.Add(time.Hour)); s.state != "Unknown" || s.message != "" {
			t.Errorf("stale: %+v", s)
		}
	}
	if h := reading(&healthapi.DeviceHealth{Message: strings.Repeat("x", 2000)}, now); len(h.message) != 1024 || !strings.HasSuffix(h.message, "...") {
		t.Errorf("long message: %d", len(h.message))
	}
	if got := healthService([]string{"v1.DRAPlugin", healthalpha.DRAResourceHealthService, healthapi.DRAResourceHealthService}); got != healthapi.DRAResourceHealthService {
		t.Error(got)
	}
}

// What a driver says reaches the status of the containers that use its devices; when it falls silent, nobody knows.
func TestHealthOfDevices(t *testing.T) {
	dir, err := os.MkdirTemp("", "dra") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "d.sock"))
	if err != nil {
		t.Fatal(err)
	}
	driver := &teller{say: make(chan *healthapi.NodeWatchResourcesResponse)}
	s := grpc.NewServer()
	draapi.RegisterDRAPluginServer(s, &fakeDriver{})
	healthapi.RegisterDRAResourceHealthServer(s, driver)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	sick := make(chan []types.UID, 10)
	c, err := New(ctx, Config{API: fakeAPI{"a": claim("a", "p")}, File: filepath.Join(dir, "state"), Sick: func(pods []types.UID) { sick <- pods }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Drivers().Register(ctx, "example.com", filepath.Join(dir, "d.sock"), []string{draapi.DRAPluginService, healthapi.DRAResourceHealthService}); err != nil {
		t.Fatal(err)
	}
	p := pod("p", "a")
	if err := c.Prepare(within(t), p); err != nil {
		t.Fatal(err)
	}
	shown := func() string {
		var out []string
		for _, s := range c.Health(p, "c") {
			for _, r := range s.Resources {
				text := string(s.Name) + " " + string(r.ResourceID) + " " + string(r.Health)
				if r.Message != nil {
					text += " " + *r.Message
				}
				out = append(out, text)
			}
		}
		return strings.Join(out, ", ")
	}
	const unknown = "claim:as-a example.com/bus=a Unknown, claim:as-a example.com/gpu=a-0 Unknown"
	if got := shown(); got != unknown {
		t.Errorf("before it speaks: %s", got)
	}
	tell := func(h healthapi.HealthStatus, message string) {
		driver.say <- &healthapi.NodeWatchResourcesResponse{Devices: []*healthapi.DeviceHealth{
			{Device: &healthapi.DeviceIdentifier{PoolName: "node", DeviceName: "gpu0"}, Health: h, Message: message},
		}}
	}
	expect := func(want string) {
		t.Helper()
		select {
		case pods := <-sick:
			if fmt.Sprint(pods) != "[p]" {
				t.Errorf("pods %v", pods)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nobody is told")
		}
		if got := shown(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	tell(healthapi.HealthStatus_UNHEALTHY, "too hot")
	expect("claim:as-a example.com/bus=a Unknown, claim:as-a example.com/gpu=a-0 Unhealthy too hot")
	tell(healthapi.HealthStatus_UNHEALTHY, "too hot") // no news
	tell(healthapi.HealthStatus_HEALTHY, "")
	expect("claim:as-a example.com/bus=a Unknown, claim:as-a example.com/gpu=a-0 Healthy")
	close(driver.say)
	expect(unknown)
}
