package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Other programs flush rules: a firewall that reloads, an administrator. The kernel announces changes of the nf_tables
// back end; those that take rules out of built-in chains, or whole tables, are the ones that can have taken ours. The
// legacy back end announces nothing: there, rules come back when the agent starts.

// watchFlushes calls look, from one goroutine, shortly after rules of built-in chains went away, until ctx ends.
func watchFlushes(ctx context.Context, look func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("watch for flushed rules: %w", err)
	}
	// A file of the poller: a read waits without a thread, and Close ends it.
	sock := os.NewFile(uintptr(fd), "nf_tables events")
	defer func() { _ = sock.Close() }()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		return fmt.Errorf("watch for flushed rules: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = sock.Close() })
	defer stop()
	buf := make([]byte, 16<<10)
	for {
		n, err := sock.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // more came than fitted: it may have been among that
		case err != nil:
			return fmt.Errorf("watch for flushed rules: %w", err)
		case !takesRules(buf[:n]):
			continue
		}
		if !sleep(ctx, 200*time.Millisecond) { // let a reload finish
			return nil
		}
		look()
	}
}

// Attributes of linux/netfilter/nf_tables.h that x/sys/unix does not name by their use here: the first of each message
// is the table, the second the chain.
const (
	attrTable = 1
	attrChain = 2
)

// takesRules says whether a batch of netlink messages tells of a deleted table or of a rule deleted from a built-in chain.
func takesRules(batch []byte) bool {
	messages, err := syscall.ParseNetlinkMessage(batch)
	if err != nil {
		return true // truncated: look
	}
	for _, m := range messages {
		if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < 4 {
			continue
		}
		attrs := stringAttrs(m.Data[4:]) // after struct nfgenmsg
		if !slices.Contains([]string{"nat", "filter"}, attrs[attrTable]) {
			continue
		}
		switch m.Header.Type & 0xff {
		case unix.NFT_MSG_DELTABLE:
			return true
		case unix.NFT_MSG_DELRULE:
			if slices.Contains([]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}, attrs[attrChain]) {
				return true
			}
		}
	}
	return false
}

// stringAttrs reads the attributes that are strings; for others the value means nothing.
func stringAttrs(b []byte) map[uint16]string {
	out := map[uint16]string{}
	for len(b) >= unix.SizeofNlAttr {
		length, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)
		if length < unix.SizeofNlAttr || length > len(b) {
			break
		}
		value := b[unix.SizeofNlAttr:length]
		if n := len(value); n > 0 && value[n-1] == 0 {
			out[kind] = string(value[:n-1])
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	return out
}

// guard makes the loop set all rules again when somebody has taken them away.
func (p *Proxy) guard(ctx context.Context) {
	err := watchFlushes(ctx, func() {
		run, err := p.program()
		if err != nil {
			return
		}
		intact, err := standing(ctx, run)
		if err != nil || intact {
			return
		}
		slog.WarnContext(ctx, "another program has removed the service rules: setting them again")
		p.flushed.Store(true)
		p.changed(nil)
		if p.cfg.OnFlush != nil {
			p.cfg.OnFlush(ctx)
		}
	})
	if err != nil {
		slog.WarnContext(ctx, "rules that another program flushes come back only with the next start of the agent", "error", err)
	}
}

// standing reports whether all jumps to the proxy's chains are in place.
func standing(ctx context.Context, program ruleProgram) (bool, error) {
	for _, table := range []string{"nat", "filter"} {
		have, err := program.Save(ctx, table)
		if err != nil {
			return false, err
		}
		if len(missingJumps(table, have)) > 0 {
			return false, nil
		}
	}
	return true, nil
}
