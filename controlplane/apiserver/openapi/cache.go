package openapi

import (
	"runtime/debug"
	"sync"
	"time"
)

// keep is how long a document stays after it was last asked for: clients come in bursts.
const keep = time.Minute

// cache holds built documents for a while. Building one takes tens of milliseconds and many times its size, so that one
// is built at a time.
type cache struct {
	mu      sync.Mutex
	entries map[string]*entry
}

type entry struct {
	body  []byte
	timer *time.Timer
}

// get returns a document, built if need be. With alone set, it takes the place of all others.
func (c *cache) get(key string, alone bool, build func() ([]byte, error)) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		e.timer.Reset(keep)
		return e.body, nil
	}
	body, err := build()
	if err != nil {
		return nil, err
	}
	if alone {
		for k, e := range c.entries {
			e.timer.Stop()
			delete(c.entries, k)
		}
	}
	if c.entries == nil {
		c.entries = map[string]*entry{}
	}
	c.entries[key] = &entry{body: body, timer: time.AfterFunc(keep, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.entries, key)
		if len(c.entries) == 0 {
			go debug.FreeOSMemory() // building left many times the document's size behind
		}
	})}
	return body, nil
}
