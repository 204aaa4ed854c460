package criconfig

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	maxLabel    = 63 // DNS label, RFC 1123
	maxHostname = 64 // the kernel's limit
)

// Hostname returns the pod's hostname, and the domain that makes it fully qualified (empty without a subdomain).
func Hostname(pod *corev1.Pod, clusterDomain string) (name, domain string) {
	if o := pod.Spec.HostnameOverride; o != nil && *o != "" && !pod.Spec.HostNetwork {
		return *o, ""
	}
	name = pod.Name
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	if len(name) > maxLabel {
		name = strings.TrimRight(name[:maxLabel], "-.")
	}
	if pod.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	return name, domain
}

// sandboxHostname is what the kernel shall answer in the pod's UTS namespace.
func sandboxHostname(pod *corev1.Pod, clusterDomain string) (string, error) {
	name, domain := Hostname(pod, clusterDomain)
	if domain == "" || !isTrue(pod.Spec.SetHostnameAsFQDN) {
		return name, nil
	}
	if fqdn := name + "." + domain; len(fqdn) <= maxHostname {
		return fqdn, nil
	}
	return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s.%s is too long (%d characters is the max, %d characters requested)",
		name, domain, maxHostname, len(name)+1+len(domain))
}

// Hosts is the content of the pod's /etc/hosts. hostFile is the host's own, used by pods on the host's network.
func Hosts(pod *corev1.Pod, podIPs []string, clusterDomain, hostFile string) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.WriteString(hostFile)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		name, domain := Hostname(pod, clusterDomain)
		for _, ip := range podIPs {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, name, domain, name)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, name)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.String()
}

// The limits of a resolver file that glibc and musl can read, as Kubernetes defines them.
const (
	maxServers     = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// DNS is a resolver configuration.
type DNS struct{ Servers, Searches, Options []string }

// ParseResolvConf reads a resolver file; what it doesn't understand is left out, as the C library does.
func ParseResolvConf(text string) DNS {
	var d DNS
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			d.Servers = append(d.Servers, strings.TrimSuffix(f[1], "."))
		case "search", "domain":
			d.Searches = nil // the last line counts
			for _, s := range f[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				d.Searches = append(d.Searches, s)
			}
		case "options":
			d.Options = append(d.Options, f[1:]...)
		}
	}
	return d
}

// DNSInput is what a pod's resolver comes from.
type DNSInput struct {
	Pod           *corev1.Pod
	Host          DNS
	ClusterDNS    []string
	ClusterDomain string
}

// Resolver returns the pod's resolver configuration; warning is what its user should know of it.
func Resolver(in DNSInput) (d DNS, warning string) {
	policy := in.Pod.Spec.DNSPolicy
	cluster := policy == corev1.DNSClusterFirstWithHostNet || (policy == "" || policy == corev1.DNSClusterFirst) && !in.Pod.Spec.HostNetwork
	switch {
	case policy == corev1.DNSNone:
	case cluster && len(in.ClusterDNS) > 0:
		d.Servers = in.ClusterDNS
		d.Options = []string{"ndots:5"}
		if in.ClusterDomain != "" {
			d.Searches = []string{in.Pod.Namespace + ".svc." + in.ClusterDomain, "svc." + in.ClusterDomain, in.ClusterDomain}
		}
		d.Searches = append(d.Searches, in.Host.Searches...)
	case cluster:
		warning = fmt.Sprintf("pod: %q. kubelet does not have ClusterDNS IP configured and cannot create Pod using %q policy. Falling back to \"Default\" policy.",
			podRef(in.Pod), corev1.DNSClusterFirst)
		d = in.Host
	default:
		d = in.Host
	}
	if c := in.Pod.Spec.DNSConfig; c != nil {
		d.Servers = unique(d.Servers, c.Nameservers)
		d.Searches = unique(d.Searches, c.Searches)
		d.Options = mergeOptions(d.Options, c.Options)
	}
	if len(d.Servers) > maxServers {
		d.Servers = d.Servers[:maxServers]
		warning = "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: " + strings.Join(d.Servers, " ")
	}
	if cut := fitSearches(unique(nil, d.Searches)); len(cut) < len(unique(nil, d.Searches)) {
		d.Searches = cut
		warning = "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: " + strings.Join(cut, " ")
	} else {
		d.Searches = cut
	}
	return d, warning
}

func fitSearches(s []string) []string {
	if len(s) > maxSearches {
		s = s[:maxSearches]
	}
	for len(strings.Join(s, " ")) > maxSearchChars {
		s = s[:len(s)-1]
	}
	return s
}

func unique(a, b []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, list := range [][]string{a, b} {
		for _, s := range list {
			if !seen[s] {
				seen[s] = true
				out = append(out, s)
			}
		}
	}
	return out
}

func mergeOptions(base []string, more []corev1.PodDNSConfigOption) []string {
	out := append([]string(nil), base...)
	for _, o := range more {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		replaced := false
		for i, b := range out {
			if name, _, _ := strings.Cut(b, ":"); name == o.Name {
				out[i], replaced = text, true
			}
		}
		if !replaced {
			out = append(out, text)
		}
	}
	return out
}
