package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mote-edge/mote/controlplane/apiserver/bootstraptoken"
	"github.com/mote-edge/mote/internal/layout"
)

func tokenCommand(dirs *layout.Dirs) *cobra.Command {
	var kubeconfig string
	c := &cobra.Command{Use: "token", Short: "Tokens with which nodes join the cluster"}
	c.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "default <config-dir>/admin.kubeconfig")
	connect := func() (kubernetes.Interface, string, error) {
		path := kubeconfig
		if path == "" {
			path = dirs.AdminKubeconfig()
		}
		return connect(path)
	}
	c.AddCommand(tokenCreate(connect), tokenList(connect), tokenDelete(connect))
	return c
}

type connector func() (client kubernetes.Interface, caHash string, err error)

func connect(path string) (kubernetes.Interface, string, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, "", fmt.Errorf("read %s (is this a machine with `mote server`? otherwise give --kubeconfig): %w", path, err)
	}
	if err := rest.LoadTLSFiles(cfg); err != nil {
		return nil, "", fmt.Errorf("read the certificates of %s: %w", path, err)
	}
	block, _ := pem.Decode(cfg.CAData)
	if block == nil {
		return nil, "", fmt.Errorf("%s has no certificate authority", path)
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, "", fmt.Errorf("the certificate authority in %s: %w", path, err)
	}
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	c, err := kubernetes.NewForConfig(cfg)
	return c, hex.EncodeToString(sum[:]), err
}

func tokenCreate(connect connector) *cobra.Command {
	var (
		ttl  time.Duration
		text string
	)
	c := &cobra.Command{
		Use:   "create",
		Short: "Make a join token and print it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, hash, err := connect()
			if err != nil {
				return err
			}
			t, err := bootstraptoken.Create(cmd.Context(), client, ttl, text)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), t.Join(hash))
			return err
		},
	}
	c.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long the token is good for; 0 means for ever")
	c.Flags().StringVar(&text, "description", "", "what the token is for")
	return c
}

func tokenList(connect connector) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the join tokens, without their secrets",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, _, err := connect()
			if err != nil {
				return err
			}
			tokens, err := bootstraptoken.List(cmd.Context(), client)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
			fmt.Fprintln(w, "ID\tTTL\tEXPIRES\tGROUPS\tDESCRIPTION")
			for _, t := range tokens {
				left, ends := "<forever>", "<never>"
				if !t.Expires.IsZero() {
					ends = t.Expires.Format(time.RFC3339)
					if left = "<ended>"; time.Now().Before(t.Expires) {
						left = time.Until(t.Expires).Round(time.Minute).String()
					}
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", t.ID, left, ends, strings.Join(t.Groups, ","), t.Description)
			}
			return w.Flush()
		},
	}
}

func tokenDelete(connect connector) *cobra.Command {
	return &cobra.Command{
		Use:   "delete TOKEN-OR-ID…",
		Short: "End join tokens",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, _, err := connect()
			if err != nil {
				return err
			}
			var errs []error
			for _, a := range args {
				errs = append(errs, bootstraptoken.Delete(cmd.Context(), client, a))
			}
			return errors.Join(errs...)
		},
	}
}
