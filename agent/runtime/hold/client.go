package hold

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Client is the runtime's end. Its calls are short and safe for concurrent use.
type Client struct {
	mu sync.Mutex
	fd int
	// Gone is called when the holder turns out to be dead, before the call that found it fails. It need not return.
	Gone func()
}

// Dial connects to mote-hold.
func Dial(socket string) (*Client, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("connect to mote-hold at %s: %w", socket, err)
	}
	return &Client{fd: fd}, nil
}

// Close ends the connection; what is held stays held.
func (c *Client) Close() { _ = unix.Close(c.fd) }

// FD is the connection, to be watched for EPOLLRDHUP: mote-hold died.
func (c *Client) FD() int { return c.fd }

func (c *Client) call(request string, fds []int) (string, []int, error) {
	c.mu.Lock()
	err := send(c.fd, request, fds)
	var reply string
	var got []int
	if err == nil {
		reply, got, err = receive(c.fd)
	}
	c.mu.Unlock()
	if err != nil {
		if c.Gone != nil {
			c.Gone()
		}
		return "", nil, fmt.Errorf("ask mote-hold: %w", err)
	}
	if message, bad := strings.CutPrefix(reply, "error "); bad {
		closeAll(got)
		return "", nil, errors.New("mote-hold: " + message)
	}
	return reply, got, nil
}

// Put has copies of the descriptors kept under key, in this order.
func (c *Client) Put(key string, fds ...int) error {
	_, _, err := c.call("put "+key, fds)
	return err
}

// Get returns copies of the descriptors kept under key, close-on-exec; none is not an error.
func (c *Client) Get(key string) ([]int, error) {
	_, fds, err := c.call("get "+key, nil)
	return fds, err
}

// Delete closes what is kept under key; an unknown key is fine.
func (c *Client) Delete(key string) error {
	_, _, err := c.call("del "+key, nil)
	return err
}

// Keys lists what is kept.
func (c *Client) Keys() ([]string, error) {
	var keys []string
	for {
		reply, _, err := c.call("keys "+strconv.Itoa(len(keys)), nil)
		if err != nil {
			return nil, err
		}
		page := strings.Fields(reply)[1:]
		if len(page) == 0 {
			return keys, nil
		}
		keys = append(keys, page...)
	}
}

// Exit returns how an orphan ended; false when mote-hold doesn't know (it lives, or wasn't an orphan).
func (c *Client) Exit(pid int, start uint64) (unix.WaitStatus, bool, error) {
	reply, _, err := c.call(fmt.Sprintf("exit %d %d", pid, start), nil)
	if err != nil {
		return 0, false, err
	}
	value, known := strings.CutPrefix(reply, "ok ")
	if !known {
		return 0, false, nil
	}
	status, err := strconv.ParseUint(value, 10, 32)
	return unix.WaitStatus(status), err == nil, err
}

// Forget drops a remembered exit.
func (c *Client) Forget(pid int, start uint64) error {
	_, _, err := c.call(fmt.Sprintf("forget %d %d", pid, start), nil)
	return err
}

// Become replaces this process by mote-hold: the way out when mote-hold itself died. The containers are this
// process' children, so the same pid must become the keeper to learn how they end. It returns only on failure.
func Become(program, socket string, lock int, held map[string][]int, runtimeArgs []string) error {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread's descriptors are its own from here on
		failed <- become(program, socket, lock, held, runtimeArgs)
	}()
	return <-failed
}

// become works on a copy of the descriptors: meanwhile other threads close theirs, and libcontainer marks all that it finds
// as close-on-exec whenever it starts a container.
func become(program, socket string, lock int, held map[string][]int, runtimeArgs []string) error {
	// Nothing may fork from here to exec: the new process would be lost to both.
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return fmt.Errorf("descriptors of its own: %w", err)
	}
	table, err := unix.MemfdCreate("handover", 0)
	if err != nil {
		return fmt.Errorf("memfd: %w", err)
	}
	var text strings.Builder
	for key, fds := range held {
		text.WriteString(key)
		for _, fd := range fds {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
				return fmt.Errorf("keep descriptor %d of %s: %w", fd, key, err)
			}
			text.WriteString(" " + strconv.Itoa(fd))
		}
		text.WriteByte('\n')
	}
	if _, err := unix.Write(table, []byte(text.String())); err != nil {
		return fmt.Errorf("write hand-over table: %w", err)
	}
	args := []string{program, "--socket", socket, "--adopt-fd", strconv.Itoa(table)}
	if lock >= 0 {
		if _, err := unix.FcntlInt(uintptr(lock), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keep the lock: %w", err)
		}
		args = append(args, "--lock-fd", strconv.Itoa(lock))
	}
	args = append(append(args, "--"), runtimeArgs...)
	return fmt.Errorf("exec %s: %w", program, unix.Exec(program, args, environment()))
}

// environment is ours without what mote-runtime sets for its own children.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(pair string) bool { return pair == "GOMAXPROCS=1" })
}
