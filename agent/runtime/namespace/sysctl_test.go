package namespace

import (
	"errors"
	"testing"
)

func TestSysctls(t *testing.T) {
	got, err := Sysctls(map[string]string{"net/ipv4/tcp_syncookies": "1", "kernel.sem": "1 2 3 4", "net.ipv4.ping_group_range": "1 0"}, false, false)
	if err != nil || got["net/ipv4/tcp_syncookies"] != "1" || got["net/ipv4/ping_group_range"] != "1 0" || got["net/ipv4/ip_unprivileged_port_start"] != "0" {
		t.Errorf("%v, %v", got, err)
	}
	for name, host := range map[string][2]bool{
		"net.core.somaxconn": {true, false}, "kernel.msgmax": {false, true}, "vm.swappiness": {false, false}, "kernel.hostname": {false, false},
	} {
		if _, err := Sysctls(map[string]string{name: "1"}, host[0], host[1]); !errors.Is(err, ErrSysctl) {
			t.Errorf("%s with host network %v and host IPC %v: %v", name, host[0], host[1], err)
		}
	}
}

// The files named here don't exist: a bug must not write to one that does.
func TestSysctlPathStaysInside(t *testing.T) {
	for _, name := range []string{"../../no/such/file", "net/../../../no/such/file", "/../no/such/file", "/no/such/file", ""} {
		if err := writeSysctl(name, "x"); !errors.Is(err, ErrSysctl) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.core.somaxconn":              "net/core/somaxconn",
		"net/core/somaxconn":              "net/core/somaxconn",
		"net/ipv4/conf/eth0.1/forwarding": "net/ipv4/conf/eth0.1/forwarding",
		"net.ipv4.conf.eth0/1.forwarding": "net/ipv4/conf/eth0.1/forwarding",
		"net.core..somaxconn":             "",
		"net/../kernel/panic":             "",
		"net.//.kernel.panic":             "",
		"/net/core/somaxconn":             "",
		"net.core.":                       "",
		"":                                "",
	} {
		got, err := pathOf(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v; want %q", name, got, err, want)
		}
	}
}
