package cni

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// A call in the runtime's process does, and says, what the program does.
func TestCallIsLikeTheProgram(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	inside := func(command, id, netns string, conf []byte) (out []byte, err error) {
		env := []string{"CNI_COMMAND=" + command, "CNI_PATH=/opt/cni/bin", "CNI_CONTAINERID=" + id, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0"}
		n.Do(func() { out, err = Call(t.Context(), env, conf) })
		return out, err
	}
	program, called := n.add("aaaa", nil), n.add("bbbb", nil)
	n.del(called, nil)
	for _, version := range []string{"1.1.0", "1.0.0", "0.4.0"} {
		conf := n.conf(map[string]any{"cniVersion": version})
		out, err := inside("ADD", "bbbb", called.Path(), conf)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			CNIVersion string
			IPs        []struct{ Address string }
		}
		if err := json.Unmarshal(out, &got); err != nil || got.CNIVersion != version || len(got.IPs) != 1 {
			t.Fatalf("%s: %v: %s", version, err, out)
		}
		if out, err := inside("CHECK", "bbbb", called.Path(), n.conf(map[string]any{"cniVersion": version, "prevResult": json.RawMessage(out)})); err != nil || len(out) > 0 {
			t.Errorf("CHECK: %s, %v", out, err)
		}
		if version == "1.1.0" {
			serve(t, called.NS, "tcp", ":80")
			ip, _, _ := strings.Cut(got.IPs[0].Address, "/")
			expect(t, "pod to pod", program.NS, "tcp", ip+":80", program.ip.String())
		}
		for range 2 { // DEL is idempotent
			if out, err := inside("DEL", "bbbb", called.Path(), conf); err != nil || len(out) > 0 {
				t.Errorf("DEL: %s, %v", out, err)
			}
		}
	}
	if out, err := inside("STATUS", "", "", n.conf(nil)); err != nil || len(out) > 0 {
		t.Errorf("STATUS: %s, %v", out, err)
	}
	if out, err := inside("GC", "", "", n.conf(map[string]any{"cni.dev/valid-attachments": []any{}})); err != nil || len(out) > 0 {
		t.Errorf("GC: %s, %v", out, err)
	}
	if out, err := n.call("CHECK", "aaaa", program.Path(), n.conf(map[string]any{"prevResult": json.RawMessage(program.result)})); err == nil {
		t.Errorf("GC left the other pod attached: %s", out)
	}
	if out, err := inside("VERSION", "", "", nil); err != nil || !json.Valid(out) {
		t.Errorf("VERSION: %s, %v", out, err)
	}
	for name, c := range map[string]struct {
		command string
		conf    []byte
	}{
		"unknown command": {"MOVE", n.conf(nil)}, "old version": {"ADD", n.conf(map[string]any{"cniVersion": "0.1.0"})},
		"no configuration": {"ADD", nil}, "no namespace": {"ADD", n.conf(nil)}, "bad subnet": {"ADD", n.conf(map[string]any{"subnet": "x"})},
	} {
		out, err := inside(c.command, "cccc", "/none", c.conf)
		var known *types.Error
		if !errors.As(err, &known) || known.Code == 0 || len(out) > 0 {
			t.Errorf("%s: %q, %v", name, out, err)
		}
		if _, same := n.call(c.command, "cccc", "/none", c.conf); same == nil || known != nil && same.Code != known.Code {
			t.Errorf("%s: the program says %v, the call %v", name, same, err)
		}
	}
}
