package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

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
	err = lab.Enter(l.Switch(), func() error {
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
