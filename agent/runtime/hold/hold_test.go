package hold

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func newServer(t *testing.T) (*keeper, *Client) {
	t.Helper()
	keep := newKeeper()
	socket := filepath.Join(t.TempDir(), "hold.sock")
	listener, err := listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	go accept(listener, keep)
	client, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return keep, client
}

func TestDescriptorsAreKept(t *testing.T) {
	_, client := newServer(t)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := client.Put("one", pipe[0], pipe[1]); err != nil {
		t.Fatal(err)
	}
	closeAll(pipe[:])
	fds, err := client.Get("one")
	if err != nil || len(fds) != 2 {
		t.Fatalf("get: %v, %v", fds, err)
	}
	if _, err := unix.Write(fds[1], []byte("x")); err != nil {
		t.Errorf("the pipe was closed: %v", err)
	}
	closeAll(fds)
	if err := client.Delete("one"); err != nil {
		t.Fatal(err)
	}
	if err := client.Delete("one"); err != nil {
		t.Errorf("delete again: %v", err)
	}
	if fds, err := client.Get("one"); err != nil || len(fds) != 0 {
		t.Errorf("after delete: %v, %v", fds, err)
	}
}

func TestKeysArePaged(t *testing.T) {
	_, client := newServer(t)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for i := range 300 { // more than fit into one packet
		if err := client.Put(fmt.Sprintf("%064d", i), int(null.Fd())); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := client.Keys()
	if err != nil || len(keys) != 300 || keys[299] != fmt.Sprintf("%064d", 299) {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}

func TestExitIsRemembered(t *testing.T) {
	keep, client := newServer(t)
	if _, known, err := client.Exit(42, 7); known || err != nil {
		t.Errorf("an unknown process: %v, %v", known, err)
	}
	keep.recordExit(process{42, 7}, unix.WaitStatus(3<<8))
	status, known, err := client.Exit(42, 7)
	if err != nil || !known || status.ExitStatus() != 3 {
		t.Errorf("%v, %v, %v", status, known, err)
	}
	if _, known, _ := client.Exit(42, 8); known {
		t.Error("another process with the same pid was taken for it")
	}
	if err := client.Forget(42, 7); err != nil {
		t.Fatal(err)
	}
	if _, known, _ := client.Exit(42, 7); known {
		t.Error("forgotten, but known")
	}
	for i := range maxExits + 10 {
		keep.recordExit(process{i, 1}, 0)
	}
	if len(keep.exits) != maxExits || len(keep.order) != maxExits {
		t.Errorf("%d exits, %d in order", len(keep.exits), len(keep.order))
	}
}

func TestBadRequests(t *testing.T) {
	_, client := newServer(t)
	for _, request := range []string{"nonsense", "put key", "get", "exit a b", "exit 1", "keys -1", "forget 1 x", "put a b c"} {
		if _, _, err := client.call(request, nil); err == nil || !strings.HasPrefix(err.Error(), "mote-hold:") {
			t.Errorf("%q: %v", request, err)
		}
	}
}

func TestStartTime(t *testing.T) {
	cmd := exec.Command("sleep", "10")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a, err := StartTime(cmd.Process.Pid)
	if err != nil || a == 0 {
		t.Errorf("%d, %v", a, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if _, err := StartTime(cmd.Process.Pid); err == nil {
		t.Error("a process that is gone has a start time")
	}
}
