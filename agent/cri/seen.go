package cri

import (
	"sync"
	"time"
)

// lastSeen is when the runtime's state was last known to be followed.
type lastSeen struct {
	mu     sync.Mutex
	now    bool // the stream of events stands
	at     time.Time
	listed time.Time
}

func (s *lastSeen) following(now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.at = now, time.Now()
}

// relisted notes a full list and returns when the one before began, zero if there was none.
func (s *lastSeen) relisted(at time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.listed
	s.listed = at
	return last
}

// Seen is when the runtime's containers were last followed: now, as long as the stream of events stands, however quiet it is.
func (c *Client) Seen() time.Time {
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	if c.seen.now {
		return time.Now()
	}
	return c.seen.at
}
