package cni

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

func TestPorts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ mapping, want, err string }{
		{`{"hostPort":80,"containerPort":8080}`, "{ 80 8080 tcp}", ""},
		{`{"hostPort":53,"containerPort":53,"protocol":"UDP","hostIP":"0.0.0.0"}`, "{ 53 53 udp}", ""},
		{`{"hostPort":53,"containerPort":53,"protocol":"sctp","hostIP":"192.0.2.1"}`, "{192.0.2.1 53 53 sctp}", ""},
		{`{"hostPort":53,"containerPort":53,"hostIP":"::"}`, "{ 53 53 tcp}", ""},
		{`{"hostPort":53,"containerPort":53,"hostIP":"::ffff:192.0.2.1"}`, "{192.0.2.1 53 53 tcp}", ""},
		{`{"containerPort":8080}`, "", ""}, // no host port: nothing to map
		{`{"hostPort":-1,"containerPort":8080}`, "", "hostPort -1"},
		{`{"hostPort":65536,"containerPort":8080}`, "", "hostPort 65536"},
		{`{"hostPort":80}`, "", "containerPort 0"},
		{`{"hostPort":80,"containerPort":8080,"protocol":"icmp"}`, "", `protocol "icmp"`},
		{`{"hostPort":80,"containerPort":8080,"hostIP":"1.2.3.4; -j ACCEPT"}`, "", "is not an IP address"},
		{`{"hostPort":80,"containerPort":8080,"hostIP":"fd00::1"}`, "", "is IPv6"},
	} {
		c, err := parseConfig([]byte(`{"name":"mote","subnet":"10.42.0.0/24","runtimeConfig":{"portMappings":[` + tc.mapping + `]}}`))
		if err != nil {
			t.Fatalf("%s: %v", tc.mapping, err)
		}
		ports, err := c.ports()
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: error %v, want %q", tc.mapping, err, tc.err)
		}
		got := ""
		for _, p := range ports {
			got += strings.TrimSpace(formatPort(p.HostIP, p.HostPort, p.ContainerPort, p.Protocol))
		}
		if got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.mapping, got, tc.want)
		}
	}
}

func formatPort(ip string, host, container int, protocol string) string {
	b, _ := json.Marshal([]int{host, container})
	return "{" + ip + " " + strings.NewReplacer("[", "", "]", "", ",", " ").Replace(string(b)) + " " + protocol + "}"
}

// Whatever the configuration, the plugin answers with a CNI error that has a code, never with a panic.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"mote","type":"mote-cni","bridge":"mote0","subnet":"10.42.0.0/24","clusterCIDR":"10.42.0.0/16","mtu":1500}`))
	f.Add([]byte(`{"subnet":"0.0.0.0/0","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"hostIP":"::%eth0"}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b)
		if err == nil {
			_ = c.gateway()
			_, err = c.ports()
		}
		var e *types.Error
		if err != nil && (!errors.As(err, &e) || e.Code == 0) {
			t.Errorf("%T %v is no CNI error", err, err)
		}
	})
}
