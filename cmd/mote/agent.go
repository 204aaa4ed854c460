package main

import (
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/internal/layout"
)

// agentCommand becomes mote-agent: a worker must not map the control plane's code.
func agentCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "agent",
		Short:              "Run a worker node (`mote agent --help` lists its flags)",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			program, err := layout.Sibling("mote-agent")
			if err != nil {
				return err
			}
			return unix.Exec(program, append([]string{"mote-agent"}, args...), os.Environ())
		},
	}
}
