package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/internal/layout"
)

// kubectlCommand becomes the machine's kubectl with the administrator's credentials. Mote ships none: any kubectl will do.
func kubectlCommand(dirs *layout.Dirs) *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl …",
		Short:              "Run kubectl as the cluster's administrator",
		DisableFlagParsing: true, // all that follows is kubectl's
		RunE: func(_ *cobra.Command, args []string) error {
			args, err := ownFlags(dirs, args)
			if err != nil {
				return err
			}
			path := dirs.AdminKubeconfig()
			if f, err := os.Open(path); err != nil {
				return fmt.Errorf("the administrator's credentials are on a machine with `mote server`, for root: %w", err)
			} else if err := f.Close(); err != nil {
				return err
			}
			program, err := exec.LookPath("kubectl")
			if errors.Is(err, exec.ErrNotFound) {
				return fmt.Errorf("no kubectl is installed: see https://kubernetes.io/docs/tasks/tools/, or use any client with KUBECONFIG=%s", path)
			}
			if err != nil {
				return fmt.Errorf("find kubectl: %w", err)
			}
			return unix.Exec(program, append([]string{"kubectl"}, args...), append(os.Environ(), "KUBECONFIG="+path))
		},
	}
}

// ownFlags takes mote's flags, which stand before kubectl's words, out of the arguments.
func ownFlags(dirs *layout.Dirs, args []string) ([]string, error) {
	own := map[string]*string{"--data-dir": &dirs.Data, "--run-dir": &dirs.Run, "--config-dir": &dirs.Config}
	for len(args) > 0 {
		name, value, inline := strings.Cut(args[0], "=")
		to, ok := own[name]
		if !ok {
			break
		}
		if !inline {
			if len(args) < 2 {
				return nil, fmt.Errorf("%s needs a directory", name)
			}
			value, args = args[1], args[1:]
		}
		*to, args = value, args[1:]
	}
	return args, nil
}
