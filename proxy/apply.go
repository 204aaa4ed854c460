package proxy

import (
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"

	"github.com/mote-edge/mote/internal/iptables"
	"github.com/mote-edge/mote/proxy/rules"
)

// ruleProgram is what the applier needs of iptables; *iptables.Runner is one.
type ruleProgram interface {
	// Save returns a table's rules.
	Save(ctx context.Context, table string) (iptables.Table, error)
	// Restore applies text atomically per table and leaves chains that it does not name alone.
	Restore(ctx context.Context, text []byte) error
}

var _ ruleProgram = (*iptables.Runner)(nil)

// applier brings chains into the kernel and remembers a hash of each, so that only what changed is sent again.
type applier struct {
	program ruleProgram
	seed    maphash.Seed
	// applied is table → chain → hash of its rules; nil when the kernel's state is not known.
	applied map[string]map[string]uint64
}

func newApplier(p ruleProgram) *applier { return &applier{program: p, seed: maphash.MakeSeed()} }

// known reports whether the kernel holds what was applied last. If not, apply needs the rules of every chain.
func (a *applier) known() bool { return a.applied != nil }

// forget makes the next apply look at the kernel anew.
func (a *applier) forget() { a.applied = nil }

// desired is the wanted content of one table.
type desired struct {
	chains rules.Chains
	// keep names chains that must stay as they are: their rules are not repeated in chains.
	keep map[string]struct{}
}

// apply makes the tables hold what is desired, and returns how many chains were written or removed.
func (a *applier) apply(ctx context.Context, tables map[string]desired) (int, error) {
	first := !a.known()
	next := map[string]map[string]uint64{}
	var text bytes.Buffer
	changed := 0
	for _, table := range []string{"nat", "filter"} {
		want := tables[table]
		var have iptables.Table
		if first {
			var err error
			if have, err = a.program.Save(ctx, table); err != nil {
				return 0, err
			}
		}
		n := a.writeTable(&text, table, want, have, next)
		changed += n
	}
	if changed == 0 {
		a.applied = next
		return 0, nil
	}
	if err := a.program.Restore(ctx, text.Bytes()); err != nil {
		a.applied = nil // one table may have been changed, the other not
		return 0, err
	}
	a.applied = next
	return changed, nil
}

// writeTable writes one table's changes; have is nil unless this is the first time.
func (a *applier) writeTable(text *bytes.Buffer, table string, want desired, have iptables.Table, next map[string]map[string]uint64) int {
	old := a.applied[table]
	hashes := make(map[string]uint64, len(want.chains)+len(want.keep))
	next[table] = hashes
	for chain := range want.keep {
		hashes[chain] = old[chain]
	}
	var write, remove []string
	for chain, lines := range want.chains {
		hashes[chain] = a.hash(lines)
		if was, ok := old[chain]; !ok || was != hashes[chain] {
			write = append(write, chain)
		}
	}
	stale := maps.Keys(old)
	if have != nil {
		stale = maps.Keys(have)
	}
	for chain := range stale {
		if _, wanted := hashes[chain]; !wanted && rules.OwnChain(chain) {
			remove = append(remove, chain)
		}
	}
	slices.Sort(write)
	slices.Sort(remove)
	var jumps []string
	if have != nil {
		jumps = missingJumps(table, have)
	}
	if len(write)+len(remove)+len(jumps) == 0 {
		return 0
	}
	fmt.Fprintf(text, "*%s\n", table)
	for _, chain := range slices.Concat(write, remove) {
		fmt.Fprintf(text, ":%s - [0:0]\n", chain) // creates or empties it
	}
	for _, chain := range write {
		for _, line := range want.chains[chain] {
			fmt.Fprintf(text, "-A %s %s\n", chain, line)
		}
	}
	for _, jump := range jumps {
		text.WriteString(jump + "\n")
	}
	for _, chain := range remove {
		fmt.Fprintf(text, "-X %s\n", chain)
	}
	text.WriteString("COMMIT\n")
	return len(write) + len(remove) + len(jumps)
}

// missingJumps returns the lines that put missing jumps first in their chains, in the order of rules.Jumps.
func missingJumps(table string, have iptables.Table) []string {
	var lines []string
	all := rules.Jumps()
	for _, j := range slices.Backward(all) {
		if j.Table == table && !have.HasRule("-A "+j.Chain+" "+j.Rule) {
			lines = append(lines, fmt.Sprintf("-I %s 1 %s", j.Chain, j.Rule))
		}
	}
	return lines
}

func (a *applier) hash(lines []string) uint64 {
	var h maphash.Hash
	h.SetSeed(a.seed)
	for _, l := range lines {
		_, _ = h.WriteString(l)
		_ = h.WriteByte('\n')
	}
	return h.Sum64()
}
