package hold

import (
	"strings"
	"testing"
)

// Whatever is asked, the holder answers and lives.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{"put a", "get a", "del a", "keys 0", "keys 99999999999", "exit 1 2", "forget 1 2", "exit 1", "", " ", "keys -1", "exit x y", strings.Repeat("\x97", maxPacket-10) + " 0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, request string) {
		k := newKeeper()
		k.fds["a"] = []int{}
		reply, _ := k.answer(request, nil)
		if word, _, _ := strings.Cut(reply, " "); word != "ok" && word != "none" && word != "error" {
			t.Errorf("%q: %q", request, reply)
		}
		if len(reply) > maxPacket {
			t.Errorf("%q: an answer of %d bytes", request, len(reply))
		}
	})
}
