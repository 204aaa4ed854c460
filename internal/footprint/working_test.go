package footprint

import "testing"

func TestWorking(t *testing.T) {
	for memory, want := range map[uint64]int{512 << 20: 200, 2<<30 - 1: 200, 2 << 30: 400, 64 << 30: 400} {
		if got := working(200, memory); got != want {
			t.Errorf("%d MiB: %d, want %d", memory>>20, got, want)
		}
	}
	if got := Working(200); got != 200 && got != 400 {
		t.Errorf("here: %d", got)
	}
}
