package core

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
)

var errAddressTaken = errors.New("provided IP is already allocated")

const addressManager = "ipallocator.k8s.io"

// addressAllocator gives out cluster addresses. Each one in use is an IPAddress
// object: creating it is what takes the address, and that is atomic in etcd
// however many API servers there are.
type addressAllocator struct {
	addresses *genericregistry.Store
	cidrs     *genericregistry.Store
	primary   netip.Prefix
}

func (a *addressAllocator) family() corev1.IPFamily {
	if a.primary.Addr().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// take takes the wanted address, or any with "".
func (a *addressAllocator) take(ctx context.Context, owner *corev1.Service, wanted string, dryRun bool) (string, error) {
	if wanted != "" {
		ip, err := netip.ParseAddr(wanted)
		if err != nil {
			return "", fmt.Errorf("failed to parse service IP %q", wanted)
		}
		if err := a.inRange(ctx, ip); err != nil {
			return "", err
		}
		return ip.String(), a.create(ctx, owner, ip, dryRun)
	}
	prefixes := []netip.Prefix{a.primary}
	for {
		for _, p := range prefixes {
			ip, err := a.takeAny(ctx, owner, p, dryRun)
			if !errors.Is(err, errRangeFull) {
				return ip, err
			}
		}
		if len(prefixes) == 0 || prefixes[0] != a.primary {
			return "", errRangeFull
		}
		var err error
		if prefixes, err = a.further(ctx); err != nil {
			return "", err
		}
	}
}

// takeAny tries a few addresses at random, which nearly always is enough, and
// then goes through what is free.
func (a *addressAllocator) takeAny(ctx context.Context, owner *corev1.Service, p netip.Prefix, dryRun bool) (string, error) {
	first, count, reserved := hosts(p)
	if count == 0 {
		return "", errRangeFull
	}
	for range 8 {
		ip := offset(first, reserved+rand.Uint64N(count-reserved))
		err := a.create(ctx, owner, ip, dryRun)
		if !errors.Is(err, errAddressTaken) {
			return ip.String(), err
		}
	}
	used, err := a.inUse(ctx)
	if err != nil {
		return "", err
	}
	start := rand.Uint64N(count)
	for _, upper := range []bool{true, false} {
		for k := range count {
			n := (start + k) % count
			if (n >= reserved) != upper || used[offset(first, n)] != nil {
				continue
			}
			err := a.create(ctx, owner, offset(first, n), dryRun)
			if !errors.Is(err, errAddressTaken) {
				return offset(first, n).String(), err
			}
		}
	}
	return "", errRangeFull
}

func (a *addressAllocator) create(ctx context.Context, owner *corev1.Service, ip netip.Addr, dryRun bool) error {
	options := &metav1.CreateOptions{}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	_, err := a.addresses.Create(clusterScope(ctx), addressObject(owner, ip), rest.ValidateAllObjectFunc, options)
	if apierrors.IsAlreadyExists(err) {
		return errAddressTaken
	}
	return err
}

func addressObject(owner *corev1.Service, ip netip.Addr) *networkingv1.IPAddress {
	family := corev1.IPv4Protocol
	if ip.Is6() {
		family = corev1.IPv6Protocol
	}
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: ip.String(),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(family),
				networkingv1.LabelManagedBy:       addressManager,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: owner.Namespace, Name: owner.Name,
		}},
	}
}

// release frees addresses that still belong to the owner.
func (a *addressAllocator) release(ctx context.Context, owner *corev1.Service, ips []string) error {
	ctx = clusterScope(ctx)
	var errs []error
	for _, ip := range ips {
		parsed, err := netip.ParseAddr(ip)
		if err != nil {
			continue // None, or not ours
		}
		obj, err := a.addresses.Get(ctx, parsed.String(), &metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		addr := obj.(*networkingv1.IPAddress)
		if !owns(owner, addr) {
			continue
		}
		_, _, err = a.addresses.Delete(ctx, addr.Name, rest.ValidateAllObjectFunc,
			&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &addr.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("release %s: %w", ip, err))
		}
	}
	return errors.Join(errs...)
}

func owns(s *corev1.Service, a *networkingv1.IPAddress) bool {
	p := a.Spec.ParentRef
	return p != nil && p.Resource == "services" && p.Namespace == s.Namespace && p.Name == s.Name
}

func (a *addressAllocator) inUse(ctx context.Context) (map[netip.Addr]*networkingv1.IPAddress, error) {
	obj, err := a.addresses.List(clusterScope(ctx), &metainternalversion.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the addresses in use: %w", err)
	}
	list := obj.(*networkingv1.IPAddressList)
	used := make(map[netip.Addr]*networkingv1.IPAddress, len(list.Items))
	for i := range list.Items {
		if ip, err := netip.ParseAddr(list.Items[i].Name); err == nil {
			used[ip] = &list.Items[i]
		}
	}
	return used, nil
}

// further lists the ranges that ServiceCIDR objects add to the configured one.
func (a *addressAllocator) further(ctx context.Context) ([]netip.Prefix, error) {
	obj, err := a.cidrs.List(clusterScope(ctx), &metainternalversion.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the ServiceCIDRs: %w", err)
	}
	var out []netip.Prefix
	for _, c := range obj.(*networkingv1.ServiceCIDRList).Items {
		if c.DeletionTimestamp != nil {
			continue
		}
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() == a.primary.Addr().Is4() && p.Masked() != a.primary {
				out = append(out, p.Masked())
			}
		}
	}
	return out, nil
}

func (a *addressAllocator) inRange(ctx context.Context, ip netip.Addr) error {
	if usable(a.primary, ip) {
		return nil
	}
	more, err := a.further(ctx)
	if err != nil {
		return err
	}
	for _, p := range more {
		if usable(p, ip) {
			return nil
		}
	}
	return fmt.Errorf("the provided IP (%v) is not in the valid range. The range of valid IPs is %s", ip, a.primary)
}

// hosts describes the addresses of a range that may be given out: the first
// one, how many there are (the network's own and, for IPv4, the broadcast
// address left out), and how many at the start are kept for those who choose by
// hand.
func hosts(p netip.Prefix) (first netip.Addr, count, reserved uint64) {
	bits := p.Addr().BitLen() - p.Bits()
	size := uint64(1) << min(bits, 62)
	if size < 4 {
		return p.Addr().Next(), 0, 0
	}
	count = size - 1
	if p.Addr().Is4() {
		count--
	}
	if size > 16 {
		reserved = min(max(16, size/16), 256)
	}
	return p.Masked().Addr().Next(), count, reserved
}

func usable(p netip.Prefix, ip netip.Addr) bool {
	if !p.Contains(ip) {
		return false
	}
	first, count, _ := hosts(p)
	return count > 0 && ip.Compare(first) >= 0 && ip.Compare(offset(first, count-1)) <= 0
}

func offset(ip netip.Addr, n uint64) netip.Addr {
	if ip.Is4() {
		b := ip.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
		return netip.AddrFrom4(b)
	}
	b := ip.As16()
	var sum [16]byte
	new(big.Int).Add(new(big.Int).SetBytes(b[:]), new(big.Int).SetUint64(n)).FillBytes(sum[:])
	return netip.AddrFrom16(sum)
}

func prefixOf(n *net.IPNet) (netip.Prefix, error) {
	ip, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, fmt.Errorf("service CIDR %s isn't a range of addresses", n)
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), ones).Masked(), nil
}

func clusterScope(ctx context.Context) context.Context {
	return genericapirequest.WithNamespace(ctx, metav1.NamespaceNone)
}
