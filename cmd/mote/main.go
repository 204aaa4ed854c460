// Command mote is the whole of Mote in one program: the server and the command line.
//
// Reads: flags. Writes: what the packages it wires together write.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mote-edge/mote/internal/layout"
	"github.com/mote-edge/mote/internal/version"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(130) // the operator insists
	}()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "mote:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	dirs := layout.Default()
	c := &cobra.Command{
		Use:           "mote",
		Short:         "Kubernetes for small machines",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.SetVersionTemplate("{{.Version}}\n")
	f := c.PersistentFlags()
	f.StringVar(&dirs.Data, "data-dir", dirs.Data, "state that survives a reboot")
	f.StringVar(&dirs.Run, "run-dir", dirs.Run, "sockets and state that a reboot clears")
	f.StringVar(&dirs.Config, "config-dir", dirs.Config, "the administrator's files")
	c.AddCommand(serverCommand(&dirs), tokenCommand(&dirs), imagesCommand(&dirs), agentCommand(), kubectlCommand(&dirs), etcdCommand(&dirs), uninstallCommand(&dirs), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version.String())
			return err
		},
	})
	return c
}
