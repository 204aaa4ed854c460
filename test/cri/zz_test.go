package cri

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestZZTrace(t *testing.T) {
	if os.Getenv("TRACE") == "" {
		t.Skip()
	}
	p := newPod(t)
	p.run("sleep 1000")
	cmd := exec.Command("sh", "-c", fmt.Sprintf(os.Getenv("TRACE"), shared.runtimePid(t)))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond)
	for range 10 {
		begin := time.Now()
		p.run("sleep 1000")
		fmt.Println("start", time.Since(begin))
	}
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
}
