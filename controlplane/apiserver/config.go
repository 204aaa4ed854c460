package apiserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/mote-edge/mote/controlplane/etcd"
	"github.com/mote-edge/mote/controlplane/pki"
)

// Config is what an API server needs. Complete fills in what is left out.
type Config struct {
	PKI  *pki.Store
	Etcd *etcd.Store

	// Listener is used instead of BindAddress and Port, when set.
	Listener    net.Listener
	BindAddress string // default: all addresses
	Port        int    // default 6443
	// AdvertiseAddress is where pods and nodes reach the server. Default: the address of the default route.
	AdvertiseAddress net.IP
	// Hosts are further names and addresses for the serving certificate.
	Hosts []string

	ServiceCIDR   *net.IPNet // default 10.43.0.0/16
	NodePortFirst int        // default 30000
	NodePortCount int        // default 2768
	ClusterDomain string     // default cluster.local
	// Issuer names this cluster in service-account tokens. Default https://kubernetes.default.svc.<cluster domain>.
	Issuer string

	// EventTTL is how long events are kept. Default 1 hour.
	EventTTL time.Duration
	// AnonymousAuth lets requests without credentials through to authorization. Default true, as upstream.
	AnonymousAuth *bool
	// Fairness turns API priority and fairness on. Without it a plain limit of concurrent requests protects the server.
	Fairness bool
	// DisablePlugins are admission plugins to leave out.
	DisablePlugins []string
	// Profiling serves /debug/pprof to those whom RBAC lets.
	Profiling bool
}

// Validate says what is wrong and how to mend it.
func (c *Config) Validate() error {
	switch {
	case c.PKI == nil || c.Etcd == nil:
		return errors.New("apiserver: PKI and Etcd must be set")
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("--secure-port %d is not a port: give one between 1 and 65535", c.Port)
	case c.BindAddress != "" && net.ParseIP(c.BindAddress) == nil:
		return fmt.Errorf("--bind-address %q is not an IP address", c.BindAddress)
	case c.NodePortFirst < 0 || c.NodePortFirst+c.NodePortCount > 65536:
		return fmt.Errorf("--service-node-port-range %d-%d does not lie between 1 and 65535", c.NodePortFirst, c.NodePortFirst+c.NodePortCount-1)
	}
	if c.ServiceCIDR != nil {
		if ones, bits := c.ServiceCIDR.Mask.Size(); bits-ones < 4 || bits-ones > 20 {
			return fmt.Errorf("--service-cidr %s: give a range of 16 to 1048576 addresses, like 10.43.0.0/16", c.ServiceCIDR)
		}
	}
	return nil
}

func (c *Config) complete() error {
	if c.Port == 0 {
		c.Port = 6443
	}
	if c.ServiceCIDR == nil {
		_, c.ServiceCIDR, _ = net.ParseCIDR("10.43.0.0/16")
	}
	if c.NodePortFirst == 0 {
		c.NodePortFirst, c.NodePortCount = 30000, 2768
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.Issuer == "" {
		c.Issuer = "https://kubernetes.default.svc." + c.ClusterDomain
	}
	if c.EventTTL == 0 {
		c.EventTTL = time.Hour
	}
	if c.AnonymousAuth == nil {
		yes := true
		c.AnonymousAuth = &yes
	}
	if c.AdvertiseAddress == nil {
		c.AdvertiseAddress = defaultAddress()
	}
	if c.Listener != nil {
		return nil
	}
	addr := net.JoinHostPort(c.BindAddress, strconv.Itoa(c.Port))
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen on %s (is another API server running? choose another with --secure-port): %w", addr, err)
	}
	c.Listener = l
	return nil
}

// ListenPort is the port that the listener has, which tests let the kernel choose.
func (c *Config) listenPort() int {
	if a, ok := c.Listener.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return c.Port
}

// ServiceAddress is the kubernetes Service's: the first of the range.
func ServiceAddress(cidr *net.IPNet) net.IP {
	ip := append(net.IP(nil), cidr.IP...)
	ip[len(ip)-1]++
	return ip
}

// DNSAddress is the cluster DNS Service's: the tenth of the range.
func DNSAddress(cidr *net.IPNet) net.IP {
	ip := append(net.IP(nil), cidr.IP...)
	ip[len(ip)-1] += 10
	return ip
}

// hosts are the serving certificate's names.
func (c *Config) hosts() []string {
	hosts := []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.ClusterDomain,
		"localhost", "127.0.0.1", "::1", ServiceAddress(c.ServiceCIDR).String(), c.AdvertiseAddress.String(),
	}
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	return append(hosts, c.Hosts...)
}

// defaultAddress is the source address of the default route, or that of any interface that is up. Nothing is sent.
func defaultAddress() net.IP {
	for _, probe := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		conn, err := net.Dial("udp", probe)
		if err != nil {
			continue
		}
		defer conn.Close()
		if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
			return a.IP
		}
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return n.IP
		}
	}
	return net.IPv4(127, 0, 0, 1)
}
