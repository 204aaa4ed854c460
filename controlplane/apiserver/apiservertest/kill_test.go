package apiservertest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const childDir = "MOTE_APISERVERTEST_CHILD"

// child runs a server until it is killed, when the test binary was started for that.
func child() {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	if _, err := Run(context.Background(), Options{Dir: dir, Sync: true}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

// An acknowledged write must survive SIGKILL, at any moment.
func TestKillLosesNoAcknowledgedWrite(t *testing.T) {
	dir := t.TempDir()
	acknowledged := 0
	for round := range 2 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || strings.TrimSpace(line) != "ready" {
			_ = cmd.Process.Kill()
			t.Fatalf("round %d: the child says %q (%v)", round, line, err)
		}
		kill := time.AfterFunc(300*time.Millisecond, func() { _ = cmd.Process.Kill() })
		cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "kubeconfig"))
		if err != nil {
			t.Fatal(err)
		}
		cfg.QPS = -1
		cfg.Timeout = 5 * time.Second
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for {
			_, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap(fmt.Sprintf("k%d", acknowledged), ""), metav1.CreateOptions{})
			if err != nil {
				break // killed
			}
			acknowledged++
		}
		kill.Stop()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if acknowledged == 0 {
		t.Fatal("nothing was written before the kill")
	}
	s := Start(t, Options{Dir: dir})
	l, err := s.Client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, c := range l.Items {
		have[c.Name] = true
	}
	for i := range acknowledged {
		if !have[fmt.Sprintf("k%d", i)] {
			t.Errorf("k%d of %d acknowledged writes is lost", i, acknowledged)
		}
	}
	t.Logf("%d acknowledged writes", acknowledged)
}
