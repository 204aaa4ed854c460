package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mote-edge/mote/controlplane/etcd"
	"github.com/mote-edge/mote/internal/layout"
	"github.com/mote-edge/mote/internal/pidfile"
)

func etcdCommand(dirs *layout.Dirs) *cobra.Command {
	var cfg etcd.Config
	c := &cobra.Command{Use: "etcd", Short: "Look after the datastore"}
	f := c.PersistentFlags()
	f.StringSliceVar(&cfg.Servers, "etcd-servers", nil, "URLs of an external etcd cluster (default: the embedded one)")
	f.StringVar(&cfg.CAFile, "etcd-cafile", "", "authority of the external etcd's certificates")
	f.StringVar(&cfg.CertFile, "etcd-certfile", "", "client certificate for the external etcd")
	f.StringVar(&cfg.KeyFile, "etcd-keyfile", "", "key of the client certificate for the external etcd")
	with := func(do func(cmd *cobra.Command, m *etcd.Maintenance, args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			cfg.Dir = filepath.Join(dirs.Server(), "etcd")
			m, err := etcd.Open(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return errors.Join(do(cmd, m, args), m.Close())
		}
	}
	snapshot := &cobra.Command{Use: "snapshot", Short: "Copies of the datastore"}
	snapshot.AddCommand(
		&cobra.Command{
			Use: "save FILE", Short: "Write the datastore as it is now to a file", Args: cobra.ExactArgs(1),
			RunE: with(func(cmd *cobra.Command, m *etcd.Maintenance, args []string) error {
				size, err := m.Save(cmd.Context(), args[0])
				if err == nil {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d bytes\n", args[0], size)
				}
				return err
			}),
		},
		&cobra.Command{
			Use: "restore FILE", Short: "Make the embedded datastore from a file; the server must be stopped", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return restore(cmd, dirs, &cfg, args[0]) },
		},
	)
	c.AddCommand(
		snapshot,
		&cobra.Command{
			Use: "defrag", Short: "Give free pages of the database back to the disk", Args: cobra.NoArgs,
			RunE: with(func(cmd *cobra.Command, m *etcd.Maintenance, _ []string) error {
				before, err := m.Status(cmd.Context())
				if err != nil {
					return err
				}
				if err := m.Defragment(cmd.Context()); err != nil {
					return err
				}
				after, err := m.Status(cmd.Context())
				for i := range after {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %d → %d bytes\n", after[i].Endpoint, before[i].Size, after[i].Size)
				}
				return err
			}),
		},
		&cobra.Command{Use: "status", Short: "Size, revision and alarms of the datastore", Args: cobra.NoArgs, RunE: with(etcdStatus)},
	)
	return c
}

func etcdStatus(cmd *cobra.Command, m *etcd.Maintenance, _ []string) error {
	members, err := m.Status(cmd.Context())
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "ENDPOINT\tVERSION\tSIZE\tIN USE\tREVISION\tKEYS\tLEADER\tALARMS")
	for _, s := range members {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%t\t%s\n", s.Endpoint, s.Version, s.Size, s.InUse, s.Revision, s.Keys, s.Leader, strings.Join(s.Alarms, ","))
	}
	return w.Flush()
}

func restore(cmd *cobra.Command, dirs *layout.Dirs, cfg *etcd.Config, file string) error {
	if len(cfg.Servers) > 0 {
		return errors.New("an external etcd is restored with its own tool: see https://etcd.io/docs/latest/op-guide/recovery/")
	}
	dir := filepath.Join(dirs.Server(), "etcd")
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	if m, err := etcd.Open(ctx, etcd.Config{Dir: dir}); err == nil {
		return errors.Join(etcd.ErrRunning, m.Close())
	}
	pid, err := pidfile.Acquire(filepath.Join(dirs.Run, "server.pid"))
	if err != nil {
		return fmt.Errorf("%w: %w", etcd.ErrRunning, err)
	}
	defer pid.Release()
	kept, err := etcd.Restore(file, dir, time.Now())
	if err != nil {
		return err
	}
	if kept != "" {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "restored; what was there is in %s\n", kept)
	}
	return err
}
