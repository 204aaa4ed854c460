// Command vmctl makes a machine's disk, boots it and runs scripts in it, for other tests and by hand:
//
//	vmctl disk -disk FILE [ARCHIVE…|FILE:PATH…]
//	vmctl up -disk FILE -dir DIR     until a signal; says "up" when the guest answers
//	vmctl run -dir DIR SCRIPT        in the machine of that directory
//	vmctl look -dir DIR SCRIPT       the same beside what runs there already, also while a test drives it
//
// Reads:  flags; $MOTE_BIN, $VM_CACHE.
// Writes: DIR: the console's log, sockets; the disk.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mote-edge/mote/test/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vmctl:", err)
		os.Exit(1)
	}
}

type options struct {
	disk, dir, nic, size string
	memory               int
	limit                time.Duration
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("disk, up, run or look: name what to do")
	}
	var o options
	set := flag.NewFlagSet(args[0], flag.ExitOnError)
	set.StringVar(&o.disk, "disk", "", "the disk's file")
	set.StringVar(&o.size, "size", "", "the disk's size (4G)")
	set.StringVar(&o.dir, "dir", "", "the machine's directory")
	set.StringVar(&o.nic, "nic", "", "the network as QEMU's -nic says it; by default one of its own")
	set.IntVar(&o.memory, "memory", 0, "MiB (768)")
	set.DurationVar(&o.limit, "limit", 10*time.Minute, "how long a script may take")
	if err := set.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "disk":
		d := vm.Disk{Size: o.size}
		for _, arg := range set.Args() {
			if strings.Contains(arg, ":") {
				d.Files = append(d.Files, arg)
			} else {
				d.Archives = append(d.Archives, arg)
			}
		}
		return d.Make(ctx, o.disk)
	case "up":
		return up(ctx, o)
	case "run":
		return ask(o, set.Arg(0))
	case "look":
		out, err := vm.Look(ctx, o.dir, o.limit, set.Arg(0))
		fmt.Println(out)
		return err
	}
	return fmt.Errorf("%q is none of disk, up, run and look", args[0])
}

// call is a script for the machine, and answer what came of it.
type call struct {
	Script string
	Limit  time.Duration
}

type answer struct{ Out, Err string }

func up(ctx context.Context, o options) error {
	m := &vm.Machine{Dir: o.dir, Disk: o.disk, Cache: cmp.Or(os.Getenv("VM_CACHE"), "/var/cache/mote-vm"), Memory: o.memory, NIC: o.nic, Unsafe: true}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	if err := m.Boot(ctx); err != nil {
		return err
	}
	defer m.Cut()
	path := filepath.Join(o.dir, "ctl.sock")
	_ = os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	defer listener.Close()
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	fmt.Println("up")
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		serve(ctx, m, conn)
	}
}

// serve answers one call; the guest takes one at a time, too.
func serve(ctx context.Context, m *vm.Machine, conn net.Conn) {
	defer conn.Close()
	var c call
	if err := json.NewDecoder(conn).Decode(&c); err != nil {
		return
	}
	var a answer
	out, err := m.Run(ctx, c.Limit, c.Script)
	if a.Out = out; err != nil {
		a.Err = err.Error()
	}
	_ = json.NewEncoder(conn).Encode(a)
}

func ask(o options, script string) error {
	conn, err := net.Dial("unix", filepath.Join(o.dir, "ctl.sock"))
	if err != nil {
		return fmt.Errorf("%w: is the machine up (vmctl up)?", err)
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(call{script, o.limit}); err != nil {
		return err
	}
	var a answer
	if err := json.NewDecoder(bufio.NewReader(conn)).Decode(&a); err != nil {
		return fmt.Errorf("the machine went away: %w", err)
	}
	fmt.Println(a.Out)
	if a.Err != "" {
		return errors.New("the script failed")
	}
	return nil
}
