package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/mote-edge/mote/internal/kubeclient"
	"github.com/mote-edge/mote/test/lab"
)

// execs runs `busybox echo` in a pod's container n times through the API server, as `kubectl exec` does: a connection of
// its own and a WebSocket each. It returns how long each took, from dialling to the exit code, in order of length.
func execs(b *testing.B, l *lab.Lab, c *kubeclient.Client, name string, n int) []time.Duration {
	b.Helper()
	rc, err := l.REST()
	if err != nil {
		b.Fatal(err)
	}
	rc.Dial = nil // a WebSocket's dialer takes none; the thread below is in the right namespace instead
	url := c.REST(corev1.SchemeGroupVersion).Get().Namespace("default").Resource("pods").Name(name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "c", Command: []string{"/busybox", "echo", "here"}, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	var took []time.Duration
	err = inside(l.Switch(), func() error {
		for range n {
			start := time.Now()
			e, err := remotecommand.NewWebSocketExecutor(rc, http.MethodGet, url.String())
			if err != nil {
				return err
			}
			var out, errOut bytes.Buffer
			if err := e.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}); err != nil {
				return fmt.Errorf("%w: %s", err, errOut.String())
			}
			if out.String() != "here\n" {
				return fmt.Errorf("exec printed %q", out.String())
			}
			took = append(took, time.Since(start))
		}
		return nil
	})
	if err != nil {
		b.Fatalf("exec in %s: %v", name, err)
	}
	slices.Sort(took)
	return took
}

// inside runs f on a thread that is in a network namespace; a socket stays in the one that it was made in.
func inside(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- fmt.Errorf("network namespace %s: %w", path, err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}
