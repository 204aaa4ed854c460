package logs

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Chunk is output for an attached client.
type Chunk struct {
	Stream Stream
	Data   []byte
}

// Sink receives a container's output from the moment it was attached.
type Sink struct {
	// Chunks is closed when the output ends or the client was too slow.
	Chunks chan Chunk
	pump   *Pump
	once   sync.Once
}

// patience is how long a container's output waits for a slow attached client before the client is cut off.
const patience = 10 * time.Second

// Attach adds a client; false when the output has ended already.
func (p *Pump) Attach() (*Sink, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == 0 {
		return nil, false
	}
	sink := &Sink{Chunks: make(chan Chunk, 64), pump: p}
	if p.sinks == nil {
		p.sinks = map[*Sink]struct{}{}
	}
	p.sinks[sink] = struct{}{}
	return sink, true
}

// Close detaches the client.
func (s *Sink) Close() error {
	go func() { // the pump may be waiting for us
		for range s.Chunks {
		}
	}()
	s.pump.mu.Lock()
	defer s.pump.mu.Unlock()
	delete(s.pump.sinks, s)
	s.end()
	return nil
}

func (s *Sink) end() { s.once.Do(func() { close(s.Chunks) }) }

// tell sends the bytes that were spooled after `from` to the clients.
func (p *Pump) tell(stream Stream, from int64) {
	if len(p.sinks) == 0 {
		return
	}
	sp := &p.stream[stream].spool
	data := make([]byte, sp.size-from)
	n, err := unix.Pread(sp.fd, data, headerSize+from)
	if err != nil {
		return
	}
	p.send(stream, data[:n])
}

func (p *Pump) broadcast(stream Stream, data []byte) {
	if len(p.sinks) > 0 {
		p.send(stream, append([]byte(nil), data...))
	}
}

func (p *Pump) send(stream Stream, data []byte) {
	for sink := range p.sinks {
		select {
		case sink.Chunks <- Chunk{stream, data}:
			continue
		default:
		}
		timer := time.NewTimer(patience)
		select {
		case sink.Chunks <- Chunk{stream, data}:
		case <-timer.C:
			delete(p.sinks, sink)
			sink.end()
		}
		timer.Stop()
	}
}
