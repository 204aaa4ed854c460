// Package iptables runs the system's iptables-save and iptables-restore: one program start for any number of changes,
// applied by the kernel as one transaction a table. Which back end (nf_tables or legacy) they speak to is the
// administrator's choice of alternatives.
//
// Reads:  the node's rules.
// Writes: the node's rules, at its callers' word: only what the text they restore names.
package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// ErrNotInstalled is returned when the node has no iptables programs.
var ErrNotInstalled = errors.New("iptables-restore not found: install the iptables package")

// Runner starts the programs.
type Runner struct {
	save, restore string
}

// Find locates the programs. It runs nothing.
func Find() (*Runner, error) {
	r := &Runner{}
	for name, path := range map[string]*string{"iptables-save": &r.save, "iptables-restore": &r.restore} {
		// A daemon's PATH often lacks the sbin directories.
		for _, candidate := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
			if found, err := exec.LookPath(candidate); err == nil {
				*path = found
				break
			}
		}
		if *path == "" {
			return nil, ErrNotInstalled
		}
	}
	return r, nil
}

// Save returns the rules of a table, parsed. A kernel without the table gives an error that says so.
func (r *Runner) Save(ctx context.Context, table string) (Table, error) {
	out, err := run(exec.CommandContext(ctx, r.save, "-t", table), nil)
	if err != nil {
		return nil, err
	}
	return Parse(out), nil
}

// Restore applies text in iptables-restore's format and leaves every chain that it does not name as it was. All of a
// table's changes are applied or none. An error names the line that was refused.
func (r *Runner) Restore(ctx context.Context, text []byte) error {
	// -w: wait for another program that holds the legacy back end's lock.
	_, err := run(exec.CommandContext(ctx, r.restore, "-w", "5", "--noflush"), text)
	return err
}

func run(cmd *exec.Cmd, stdin []byte) ([]byte, error) {
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		msg := strings.TrimSpace(errOut.String())
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.ReplaceAll(msg, "\n", "; "))
		if line := refused(msg, stdin); line != "" {
			err = &RefusedError{Line: line, Err: err}
		}
		return nil, err
	}
	return out.Bytes(), nil
}

// RefusedError is a restore that failed at one line.
type RefusedError struct {
	Line string
	Err  error
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%v (at %q)", e.Err, e.Line) }

// Unwrap returns how the program failed.
func (e *RefusedError) Unwrap() error { return e.Err }

// refused returns the input line that an error message names by number, if it is a rule.
func refused(msg string, stdin []byte) string {
	_, after, ok := strings.Cut(msg, "line ")
	if !ok {
		if _, after, ok = strings.Cut(msg, "line: "); !ok {
			return ""
		}
	}
	digits := after[:len(after)-len(strings.TrimLeft(after, "0123456789"))]
	n, err := strconv.Atoi(digits)
	lines := bytes.Split(stdin, []byte("\n"))
	if err != nil || n < 1 || n > len(lines) || !bytes.HasPrefix(lines[n-1], []byte("-")) {
		return ""
	}
	return string(lines[n-1])
}

// Table is a table's chains and their rules, each as "-A CHAIN …" in order, as iptables-save prints them.
type Table map[string][]string

// Parse reads the output of iptables-save for one table.
func Parse(text []byte) Table {
	t := Table{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, ":"):
			chain, _, _ := strings.Cut(line[1:], " ")
			if t[chain] == nil {
				t[chain] = []string{}
			}
		case strings.HasPrefix(line, "-A "):
			chain, _, _ := strings.Cut(line[3:], " ")
			t[chain] = append(t[chain], line)
		}
	}
	return t
}

// Has reports whether the table has the chain.
func (t Table) Has(chain string) bool { _, ok := t[chain]; return ok }

// HasRule reports whether a rule, "-A CHAIN …" in iptables-save's spelling, is in the table.
func (t Table) HasRule(rule string) bool {
	chain, _, _ := strings.Cut(strings.TrimPrefix(rule, "-A "), " ")
	for _, have := range t[chain] {
		if have == rule {
			return true
		}
	}
	return false
}

// Remove returns the restore lines (without *table and COMMIT) that take away every chain that mine accepts, with all
// jumps to them from other chains. It is empty if there is none.
func (t Table) Remove(mine func(chain string) bool) string {
	var declare, rules, drop strings.Builder
	for chain, list := range t {
		if mine(chain) {
			fmt.Fprintf(&declare, ":%s - [0:0]\n", chain) // flushed, so that chains which refer to each other can go
			fmt.Fprintf(&drop, "-X %s\n", chain)
			continue
		}
		for _, rule := range list {
			if target := jumpTarget(rule); target != "" && mine(target) {
				rules.WriteString("-D" + strings.TrimPrefix(rule, "-A") + "\n")
			}
		}
	}
	return declare.String() + rules.String() + drop.String()
}

func jumpTarget(rule string) string {
	fields := strings.Fields(rule)
	for i, f := range fields {
		if (f == "-j" || f == "-g") && i+1 < len(fields) {
			return fields[i+1]
		}
	}
	return ""
}
