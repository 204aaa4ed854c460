package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/internal/layout"
)

func imagesCommand(dirs *layout.Dirs) *cobra.Command {
	c := &cobra.Command{Use: "images", Short: "Images on this node", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return listImages(cmd.Context(), *dirs, cmd.OutOrStdout())
	}}
	c.AddCommand(&cobra.Command{
		Use: "import ARCHIVE...", Short: "Take images from archives (docker save or OCI layout, plain or compressed; - reads standard input)", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, a := range args {
				if err := importImage(cmd.Context(), *dirs, a, cmd.OutOrStdout()); err != nil {
					return err
				}
			}
			return nil
		},
	}, &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the images on this node", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return listImages(cmd.Context(), *dirs, cmd.OutOrStdout()) },
	}, &cobra.Command{
		Use: "rm IMAGE...", Short: "Remove images from this node", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return removeImages(cmd.Context(), *dirs, args) },
	}, &cobra.Command{
		Use: "pull IMAGE...", Short: "Fetch images from their registries", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImages(*dirs, func(c runtimeapi.ImageServiceClient) error {
				for _, a := range args {
					resp, err := c.PullImage(cmd.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: a}})
					if err != nil {
						return fmt.Errorf("pull %s: %w", a, err)
					}
					fmt.Fprintln(cmd.OutOrStdout(), resp.GetImageRef())
				}
				return nil
			})
		},
	})
	return c
}

// unreachable words the error of a runtime that isn't there.
func unreachable(socket string, err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("no runtime answers on %s: start `mote server` or `mote agent` first, or give --run-dir", socket)
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%s: run this as root", socket)
	}
	return err
}

func importImage(ctx context.Context, dirs layout.Dirs, archive string, out io.Writer) error {
	in := io.Reader(os.Stdin)
	if archive != "-" {
		f, err := os.Open(archive)
		if err != nil {
			return fmt.Errorf("import: %w", err)
		}
		defer f.Close()
		in = f
	}
	socket := dirs.RuntimeAdminSocket()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://mote/images/import", io.NopCloser(in))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return unreachable(socket, err)
	}
	defer resp.Body.Close()
	var answer struct {
		Images []string `json:"images"`
		Error  string   `json:"error"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("import %s: the runtime answered %s: %w", archive, resp.Status, err)
	}
	if answer.Error != "" {
		return fmt.Errorf("import %s: %s", archive, answer.Error)
	}
	for _, ref := range answer.Images {
		fmt.Fprintln(out, ref)
	}
	return nil
}

func withImages(dirs layout.Dirs, f func(runtimeapi.ImageServiceClient) error) error {
	socket := dirs.RuntimeSocket()
	if _, err := os.Stat(socket); err != nil {
		return unreachable(socket, err)
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return fmt.Errorf("runtime %s: %w", socket, err)
	}
	defer conn.Close()
	return f(runtimeapi.NewImageServiceClient(conn))
}

func listImages(ctx context.Context, dirs layout.Dirs, out io.Writer) error {
	return withImages(dirs, func(c runtimeapi.ImageServiceClient) error {
		resp, err := c.ListImages(ctx, &runtimeapi.ListImagesRequest{})
		if err != nil {
			return fmt.Errorf("list images: %w", err)
		}
		w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "IMAGE\tID\tSIZE")
		var rows []string
		for _, img := range resp.GetImages() {
			names := img.GetRepoTags()
			if len(names) == 0 {
				names = img.GetRepoDigests()
			}
			if len(names) == 0 {
				names = []string{"<none>"}
			}
			id := strings.TrimPrefix(img.GetId(), "sha256:")
			for _, n := range names {
				rows = append(rows, fmt.Sprintf("%s\t%.12s\t%.1f MB", n, id, float64(img.GetSize())/1e6))
			}
		}
		sort.Strings(rows)
		for _, r := range rows {
			fmt.Fprintln(w, r)
		}
		return w.Flush()
	})
}

func removeImages(ctx context.Context, dirs layout.Dirs, refs []string) error {
	return withImages(dirs, func(c runtimeapi.ImageServiceClient) error {
		for _, ref := range refs {
			spec := &runtimeapi.ImageSpec{Image: ref}
			have, err := c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
			if err != nil {
				return fmt.Errorf("remove %s: %w", ref, err)
			}
			if have.GetImage() == nil {
				return fmt.Errorf("remove %s: no such image: `mote images list` shows what there is", ref)
			}
			if _, err := c.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: spec}); err != nil {
				return fmt.Errorf("remove %s: %w", ref, err)
			}
		}
		return nil
	})
}
