package testns

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Sysctl sets a kernel parameter of the namespace.
func (n *NS) Sysctl(path, value string) {
	n.t.Helper()
	n.must("sysctl "+path, func() error {
		return os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0)
	})
}

// Serve answers every connection or datagram at addr in the namespace with "<name> <client's address>", until the test
// ends. network is tcp4 or udp4.
func (n *NS) Serve(name, network, addr string) {
	n.t.Helper()
	if strings.HasPrefix(network, "udp") {
		var conn net.PacketConn
		n.must("listen on "+addr, func() (err error) {
			conn, err = net.ListenPacket(network, addr)
			return err
		})
		n.t.Cleanup(func() { _ = conn.Close() })
		go func() {
			buf := make([]byte, 512)
			for {
				_, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = conn.WriteTo([]byte(answer(name, from)), from)
			}
		}()
		return
	}
	var l net.Listener
	n.must("listen on "+addr, func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	n.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, answer(name, c.RemoteAddr()))
			_ = c.Close()
		}
	}()
}

func answer(name string, from net.Addr) string {
	host, _, _ := net.SplitHostPort(from.String())
	return name + " " + host
}

// Dial connects a socket that lives in the namespace.
func (n *NS) Dial(network, addr string) (conn net.Conn, err error) {
	n.Do(func() { conn, err = net.DialTimeout(network, addr, 2*time.Second) })
	return conn, err
}

// Ask connects from the namespace to a server of Serve and returns its name and the address it saw. It waits for two
// seconds at most.
func (n *NS) Ask(network, addr string) (server, saw string, err error) {
	conn, err := n.Dial(network, addr)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = conn.Close() }()
	return AskOn(conn)
}

// AskOn asks a server of Serve on an open connection.
func AskOn(conn net.Conn) (server, saw string, err error) {
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", "", err
	}
	if _, isUDP := conn.(*net.UDPConn); isUDP {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", "", err
		}
	}
	buf := make([]byte, 512)
	k, err := conn.Read(buf)
	if err != nil {
		return "", "", err
	}
	server, saw, ok := strings.Cut(string(buf[:k]), " ")
	if !ok {
		return "", "", fmt.Errorf("unexpected answer %q", buf[:k])
	}
	return server, saw, nil
}
