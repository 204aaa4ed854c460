// Package wholeframes sends the frames of SPDY/3.1 whole, for exec, attach and port-forward. The framer of the library writes a frame in
// up to eight pieces of one to four bytes, each of which would be a TLS record, a system call, a packet and a wake-up of its peer.
package wholeframes

import (
	"bufio"
	"encoding/binary"
	"net"
	"net/http"
	"strings"
	"sync"
)

const (
	header = 8        // bytes of a frame before its payload; the last three are the payload's length (SPDY/3.1, 2.2)
	most   = 64 << 10 // bytes that wait for the rest of their frame; of larger frames the pieces go as they come
)

// control is how the first frame of a connection begins: a control frame of version 3. No HTTP request or answer does.
const control = 0x8003

// Conn returns c with writes put together to frames. What is written before the first frame, a request for the upgrade, goes as it
// comes, and so does everything on a connection that is never upgraded to SPDY.
func Conn(c net.Conn) net.Conn { return &conn{Conn: c} }

type conn struct {
	net.Conn

	mu      sync.Mutex
	begun   bool   // frames are written, not HTTP
	waiting []byte // begins where a frame does, and is less than one
	passing int    // bytes left of a frame that was too large to wait for
}

// Write takes all of p; what it keeps goes with the rest of its frame. After an error the connection is of no use.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.begun {
		if c.begun = len(p) >= 2 && binary.BigEndian.Uint16(p) == control; !c.begun {
			return c.Conn.Write(p)
		}
	}
	all := p
	if len(c.waiting) > 0 {
		c.waiting = append(c.waiting, p...)
		all = c.waiting
	}
	ready := min(c.passing, len(all))
	c.passing -= ready
	for len(all)-ready >= header {
		size := header + int(binary.BigEndian.Uint32(all[ready+4:])&0xffffff)
		rest := len(all) - ready
		if size > rest && size <= most {
			break
		}
		c.passing = max(size-rest, 0)
		ready += min(size, rest)
	}
	if ready > 0 {
		if _, err := c.Conn.Write(all[:ready]); err != nil {
			return 0, err
		}
	}
	c.waiting = append(c.waiting[:0], all[ready:]...)
	if len(c.waiting) == 0 && cap(c.waiting) > most/16 {
		c.waiting = nil // a large frame's room isn't kept while nothing is said
	}
	return len(p), nil
}

// Handler serves h, whose answers to upgrades to SPDY come in whole frames.
func Handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hijacker, ok := w.(http.Hijacker); ok && strings.HasPrefix(strings.ToUpper(r.Header.Get("Upgrade")), "SPDY/") {
			w = &writer{w, hijacker}
		}
		h.ServeHTTP(w, r)
	})
}

type writer struct {
	http.ResponseWriter
	hijacker http.Hijacker
}

func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, buffered, err := w.hijacker.Hijack()
	if err != nil {
		return nil, nil, err
	}
	return Conn(c), buffered, nil
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
