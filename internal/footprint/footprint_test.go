package footprint

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestReadOnlyPicksTheProgramAndDatabases(t *testing.T) {
	const maps = `00400000-01000000 r-xp 00000000 fe:00 7 /bin/mote
01000000-02000000 r--p 00c00000 fe:00 7 /bin/mote
02000000-02100000 rw-p 01c00000 fe:00 7 /bin/mote
c000000000-c000400000 rw-p 00000000 00:00 0
7f0000000000-7f0000001000 r--s 00000000 fe:00 9 /var/lib/db
7f0000001000-7f0000002000 r--p 00000000 fe:00 8 /lib/other
`
	got, err := readOnly(strings.NewReader(maps), "/bin/mote")
	if err != nil {
		t.Fatal(err)
	}
	want := []area{{0x400000, 0x1000000}, {0x1000000, 0x2000000}, {0x7f0000000000, 0x7f0000001000}}
	if !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestTrimLeavesTheProgramRunning(t *testing.T) {
	for range 3 {
		if err := Trim(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Getwd(); err != nil {
			t.Fatal(err)
		}
	}
}

// The cleanup that stands for a collection must come for each of them, and stop with Run.
func TestOnCollectionTellsOfEach(t *testing.T) {
	tell := make(chan struct{}, 1)
	var ended atomic.Bool
	onCollection(&ended, tell)
	for range 3 {
		runtime.GC()
		select {
		case <-tell:
		case <-time.After(10 * time.Second):
			t.Fatal("a collection went by unnoticed")
		}
	}
	ended.Store(true)
}

func TestAllocatedGrows(t *testing.T) {
	before := allocated()
	sink = make([]byte, 1<<20)
	runtime.GC()
	if d := allocated() - before; d < 1<<20 {
		t.Errorf("a megabyte counted as %d bytes", d)
	}
}

var sink []byte
