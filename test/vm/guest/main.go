// Command guest runs inside the test VM: it takes shell scripts from the harness over a virtio port, a line of JSON each,
// and answers with what they printed and their exit code.
//
// Reads:  /dev/virtio-ports/mote.
// Writes: what the scripts do.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"
)

type request struct {
	ID      int           `json:"id"`
	Script  string        `json:"script"`
	Timeout time.Duration `json:"timeout"`
}

type reply struct {
	ID   int    `json:"id"` // 0: the guest is up
	Out  string `json:"out"`
	Code int    `json:"code"`
}

func main() {
	// The second port is for somebody who wants to look while a script of the first one runs; often nobody is there.
	go func() {
		for {
			_ = serve("/dev/virtio-ports/mote.look")
			time.Sleep(time.Second)
		}
	}()
	if err := serve("/dev/virtio-ports/mote"); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func serve(path string) error {
	port, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	out := json.NewEncoder(port)
	if err := out.Encode(reply{}); err != nil {
		return err
	}
	in := bufio.NewReader(port)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return err
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("request %q: %w", line, err)
		}
		if err := out.Encode(perform(r)); err != nil {
			return err
		}
	}
}

func perform(r request) reply {
	ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/bash", "-c", r.Script)
	cmd.Env = append(os.Environ(), "HOME=/root", "PATH=/opt/mote:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.WaitDelay = time.Second // a child that keeps the output open doesn't hold the answer up
	text, err := cmd.CombinedOutput()
	a := reply{ID: r.ID, Out: string(text)}
	if err != nil {
		a.Code = cmd.ProcessState.ExitCode()
		if a.Code <= 0 {
			a.Code, a.Out = 255, a.Out+err.Error()
		}
	}
	return a
}
