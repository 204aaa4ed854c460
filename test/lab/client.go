package lab

import (
	"context"
	"fmt"
	"net"
	"runtime"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mote-edge/mote/internal/kubeclient"
)

// Client reaches the lab's API server as the administrator, from the switch.
func (l *Lab) Client() (*kubeclient.Client, error) {
	cfg, err := l.REST()
	if err != nil {
		return nil, err
	}
	return kubeclient.New(cfg)
}

// REST is the administrator's configuration; its connections begin in the switch's network namespace.
func (l *Lab) REST() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("the lab's kubeconfig: %w", err)
	}
	cfg.QPS = -1
	cfg.Dial = func(_ context.Context, network, address string) (net.Conn, error) {
		return dialIn(l.Switch(), network, address)
	}
	return cfg, nil
}

// Listen listens for TCP at the switch: nodes and pods reach it there.
func (l *Lab) Listen(address string) (listener net.Listener, err error) {
	err = Enter(l.Switch(), func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	return listener, err
}

// dialIn connects from a network namespace.
func dialIn(netns, network, address string) (conn net.Conn, err error) {
	err = Enter(netns, func() (err error) {
		conn, err = net.Dial(network, address)
		return err
	})
	return conn, err
}

// Enter runs f on a thread that is in a network namespace, given by its path. A socket stays in the one that it was made in.
func Enter(netns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- fmt.Errorf("network namespace %s: %w", netns, err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", netns, err)
			return
		}
		done <- f()
	}()
	return <-done
}
