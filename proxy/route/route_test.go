package route

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/mote-edge/mote/internal/testns"
)

func r(pods, via string) Route {
	return Route{Pods: netip.MustParsePrefix(pods), Via: netip.MustParseAddr(via)}
}

func TestSync(t *testing.T) {
	t.Parallel()
	node, outside := testns.New(t), testns.New(t)
	node.Uplink(outside, netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("192.0.2.2/24"))
	node.Route("uplink", netip.MustParsePrefix("10.99.0.0/16"), netip.MustParseAddr("192.0.2.2"))
	for _, step := range []struct {
		name string
		want []Route
		has  string
		err  string
	}{
		{"two nodes", []Route{r("10.42.1.0/24", "192.0.2.2"), r("10.42.2.0/24", "192.0.2.3")}, "10.42.1.0/24 via 192.0.2.2,10.42.2.0/24 via 192.0.2.3,10.99.0.0/16 via 192.0.2.2", ""},
		{"again", []Route{r("10.42.1.0/24", "192.0.2.2"), r("10.42.2.0/24", "192.0.2.3")}, "10.42.1.0/24 via 192.0.2.2,10.42.2.0/24 via 192.0.2.3,10.99.0.0/16 via 192.0.2.2", ""},
		{"one moved, one gone", []Route{r("10.42.1.0/24", "192.0.2.4")}, "10.42.1.0/24 via 192.0.2.4,10.99.0.0/16 via 192.0.2.2", ""},
		{"one out of reach", []Route{r("10.42.3.0/24", "203.0.113.9"), r("10.42.4.0/24", "192.0.2.4")}, "10.42.4.0/24 via 192.0.2.4,10.99.0.0/16 via 192.0.2.2", "10.42.3.0/24 by node 203.0.113.9"},
		{"none: others' routes stay", nil, "10.99.0.0/16 via 192.0.2.2", ""},
	} {
		var err error
		var out []byte
		node.Do(func() {
			err = Sync(context.Background(), step.want)
			out, _ = exec.Command("ip", "-4", "route", "show", "via", "192.0.2.0/24").Output()
			if len(out) == 0 {
				out, _ = exec.Command("ip", "-4", "route").Output()
			}
		})
		if (err == nil) != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) {
			t.Errorf("%s: error %v, want %q", step.name, err, step.err)
		}
		var got []string
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) > 2 && f[1] == "via" {
				got = append(got, strings.Join(f[:3], " "))
			}
		}
		if s := strings.Join(got, ","); s != step.has {
			t.Errorf("%s: routes %s, want %s", step.name, s, step.has)
		}
	}
}
