package wholeframes_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mote-edge/mote/internal/testspdy"
	"github.com/mote-edge/mote/internal/wholeframes"
)

// recorder is a connection that keeps what each write held.
type recorder struct {
	net.Conn
	mu     sync.Mutex
	writes [][]byte
	err    error
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	r.writes = append(r.writes, slices.Clone(p))
	if r.Conn == nil {
		return len(p), nil
	}
	return r.Conn.Write(p)
}

func frame(first uint32, payload string) string {
	b := binary.BigEndian.AppendUint32(nil, first)
	return string(binary.BigEndian.AppendUint32(b, uint32(len(payload)))) + payload
}

const syn = 0x80030001 // a control frame that opens a stream

func TestWrites(t *testing.T) {
	big := strings.Repeat("x", 100_000)
	request := "POST /exec/ns/pod/c HTTP/1.1\r\n\r\n"
	for name, c := range map[string]struct{ writes, want []string }{
		"HTTP goes as it comes":              {[]string{"GE", "T / HTTP/1.1\r\n", "\r\n", "", "\x81\x05hello"}, []string{"GE", "T / HTTP/1.1\r\n", "\r\n", "", "\x81\x05hello"}},
		"a frame in pieces":                  {[]string{request, "\x80\x03", "\x00\x01", "\x00\x00\x00\x05", "ab", "c", "de"}, []string{request, frame(syn, "abcde")}},
		"a frame at once":                    {[]string{frame(syn, "abc")}, []string{frame(syn, "abc")}},
		"without a payload":                  {[]string{"\x80\x03\x00\x05", "\x00\x00\x00\x00"}, []string{frame(0x80030005, "")}},
		"frames and a half, then the rest":   {[]string{frame(syn, "a") + frame(1, "bcd")[:9], "cd" + frame(3, "e")}, []string{frame(syn, "a"), frame(1, "bcd") + frame(3, "e")}},
		"flags aren't a part of the length":  {[]string{frame(syn, "a"), "\x00\x00\x00\x01\x01\x00\x00\x02", "bc"}, []string{frame(syn, "a"), "\x00\x00\x00\x01\x01\x00\x00\x02bc"}},
		"pieces of a large frame don't wait": {[]string{frame(syn, "a"), frame(1, big)[:8], big[:50_000], big[50_000:], frame(1, "b")}, []string{frame(syn, "a"), frame(1, big)[:8], big[:50_000], big[50_000:], frame(1, "b")}},
		"the end of a large one and more":    {[]string{frame(syn, "a"), frame(1, big)[:50_000], frame(1, big)[50_000:] + frame(1, "bc")[:3], frame(1, "bc")[3:]}, []string{frame(syn, "a"), frame(1, big)[:50_000], frame(1, big)[50_000:], frame(1, "bc")}},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{}
			conn := wholeframes.Conn(r)
			for _, p := range c.writes {
				if n, err := conn.Write([]byte(p)); n != len(p) || err != nil {
					t.Fatalf("write: %d, %v", n, err)
				}
			}
			var got []string
			for _, w := range r.writes {
				got = append(got, string(w))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("wrote %.200q, want %.200q", got, c.want)
			}
		})
	}
}

func TestNothingIsLostOrTurnedAround(t *testing.T) {
	var all []byte
	for i := range 300 {
		size := rand.IntN(50)
		if i%50 == 1 {
			size = rand.IntN(200_000)
		}
		all = append(all, frame(syn+uint32(i), string(make([]byte, size)))...)
	}
	r := &recorder{}
	conn := wholeframes.Conn(r)
	for rest := all; len(rest) > 0; {
		n := min(2+rand.IntN(30), len(rest))
		if rand.IntN(20) == 0 {
			n = min(rand.IntN(100_000)+2, len(rest))
		}
		if _, err := conn.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if got := bytes.Join(r.writes, nil); !bytes.Equal(got, all) {
		t.Errorf("%d bytes arrived of %d, or others", len(got), len(all))
	}
}

func TestErrorsOfTheConnectionAreTold(t *testing.T) {
	broken := errors.New("broken pipe")
	conn := wholeframes.Conn(&recorder{err: broken})
	if _, err := conn.Write([]byte(frame(syn, "a"))); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

// The library's own server and client: each frame is one write, at either end.
func TestStreams(t *testing.T) {
	ends := make(chan *recorder, 1)
	server := httptest.NewUnstartedServer(wholeframes.Handler(http.HandlerFunc(testspdy.Echo)))
	server.Listener = listener{server.Listener, ends}
	server.Start()
	t.Cleanup(server.Close) // after the stream's connection

	var client *recorder
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		client = &recorder{Conn: c}
		return wholeframes.Conn(client), err
	}}
	stream, err := testspdy.Open(t, transport, server.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, said := range []string{"hello", strings.Repeat("long", 30_000), "bye"} {
		testspdy.Say(t, stream, said)
	}
	if n := client.count(); n > 1+1+3+1 { // the request, the stream, what is said; the long one in two
		t.Errorf("the client wrote %d times", n)
	}
	if n := (<-ends).count(); n > 1+1+2+120_000/(32<<10)+1 { // the answer, the reply, what is said; the long one as it is copied
		t.Errorf("the server wrote %d times", n)
	}
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.writes)
}

// listener hands each connection to ends, too.
type listener struct {
	net.Listener
	ends chan<- *recorder
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	r := &recorder{Conn: c}
	l.ends <- r
	return r, nil
}
