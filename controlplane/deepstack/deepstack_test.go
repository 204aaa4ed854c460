package deepstack

import (
	"testing"
)

//go:noinline
func down(depth int) (sum int) {
	var frame [100]byte
	if depth > 0 {
		sum = down(depth - 1)
	}
	return sum + int(frame[depth%len(frame)])
}

func run(before func()) {
	done := make(chan struct{})
	go func() {
		before()
		down(80)
		close(done)
	}()
	<-done
}

// BenchmarkReserve is a goroutine that nests eighty calls, with room for them and without.
func BenchmarkReserve(b *testing.B) {
	for name, before := range map[string]func(){"with": Reserve, "without": func() {}} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				run(before)
			}
		})
	}
}

func TestReserve(t *testing.T) {
	run(Reserve)
	if n := testing.AllocsPerRun(100, Reserve); n != 0 {
		t.Errorf("%v allocations: the frame has left the stack", n)
	}
}
