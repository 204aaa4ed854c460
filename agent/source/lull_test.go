package source

import (
	"fmt"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// While pods keep coming, none is written for a while; then all are.
func TestCheckpointsWaitForALull(t *testing.T) {
	dir := t.TempDir()
	written := func() int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	synctest.Test(t, func(t *testing.T) {
		c, err := NewCheckpoint(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		done, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			c.Run(done)
		}()
		n, uid := 0, 0
		put := func() {
			n, uid = n+1, uid+1
			c.put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint(uid))}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}})
		}
		put()
		time.Sleep(lull + time.Millisecond)
		if got := written(); got != 1 {
			t.Errorf("%d files after a lull, want 1", got)
		}
		for began := time.Now(); time.Since(began) < patience-lull; time.Sleep(lull / 2) {
			put()
		}
		if got := written(); got != 1 {
			t.Errorf("%d files while pods come, want none yet but the first", got)
		}
		for range 8 {
			put()
			time.Sleep(lull / 2)
		}
		if got := written(); got < 10 {
			t.Errorf("%d files of %d after the patience", got, n)
		}
		for range 3 {
			put()
			time.Sleep(lull / 2)
		}
		time.Sleep(patience)
		for i, head := range []time.Duration{0, time.Millisecond} { // before the writer has begun to wait, and while it does
			put()
			time.Sleep(head)
			c.remove(types.UID(fmt.Sprint(i + 1))) // doesn't wait for a lull, and nor does what waits already
			time.Sleep(time.Millisecond)
			n--
			if got := written(); got != n {
				t.Errorf("%d files after a removal, want %d", got, n)
			}
			time.Sleep(patience)
		}
		put()
		close(done) // what is queued when the agent ends is written
		<-ended
		if got := written(); got != n {
			t.Errorf("%d files of %d at the end", got, n)
		}
	})
}
