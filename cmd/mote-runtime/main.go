// mote-runtime is a CRI v1 container runtime: see agent/runtime.
//
// Reads:  its flags.
// Writes: nothing of its own; agent/runtime does.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/mote-edge/mote/agent/runtime"
	"github.com/mote-edge/mote/agent/runtime/hold"
	"github.com/mote-edge/mote/agent/runtime/image"
	"github.com/mote-edge/mote/agent/runtime/network"
	_ "github.com/mote-edge/mote/agent/runtime/reexec" // a container's first step ends there, before main
	"github.com/mote-edge/mote/agent/runtime/seccompcache"
	"github.com/mote-edge/mote/agent/runtime/stage"
	"github.com/mote-edge/mote/cni"
	"github.com/mote-edge/mote/internal/layout"
	"github.com/mote-edge/mote/internal/version"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == seccompcache.Command {
		seccompcache.Main()
	}
	// Threads that entered a pod's namespaces end with their goroutine; the main thread can't, so keep it here.
	goruntime.LockOSThread()
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "mote-runtime:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	self, staged := stage.Entered()
	dirs := layout.Default()
	flags := pflag.NewFlagSet("mote-runtime", pflag.ContinueOnError)
	flags.StringVar(&dirs.Data, "data-dir", dirs.Data, "what survives a reboot")
	flags.StringVar(&dirs.Run, "run-dir", dirs.Run, "sockets and what a reboot ends")
	flags.StringVar(&dirs.Config, "config-dir", dirs.Config, "where registries.yaml is")
	confDir := flags.String("cni-conf-dir", "", "CNI configuration (default <data-dir>/cni/net.d)")
	binDirs := flags.StringSlice("cni-bin-dir", nil, "where CNI plugins are (default this program's directory, /opt/cni/bin)")
	cdiDirs := flags.StringSlice("cdi-spec-dirs", nil, "where CDI devices are described (default /etc/cdi, /run/cdi)")
	level := flags.String("log-level", "info", "debug, info, warn or error")
	noHold := flags.Bool("no-hold", false, "run without mote-hold: a restart loses output and exit codes")
	if err := flags.Parse(args[1:]); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil
		}
		return err
	}
	if err := dirs.Validate(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("it needs root to make containers: run it as root")
	}
	var logLevel slog.Level
	if err := logLevel.UnmarshalText([]byte(*level)); err != nil {
		return fmt.Errorf("--log-level %q: use debug, info, warn or error", *level)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: logLevel}))
	slog.SetDefault(log)
	if !staged {
		var err error
		if self, err = os.Executable(); err != nil {
			return err
		}
		err = stage.Enter(dirs.Run, self)
		log.Warn("containers and execs begin with this program instead of mote-init, and take longer", "err", err)
	}
	lock := hold.InheritedLock()
	// For the containers' first steps: they live for milliseconds, on one processor.
	if _, set := os.LookupEnv("GOMAXPROCS"); !set {
		_ = os.Setenv("GOMAXPROCS", "1")
	}
	holder, err := layout.Beside(self, "mote-hold")
	if err != nil {
		return err
	}
	if *confDir == "" {
		*confDir = dirs.CNIConfig()
	}
	if len(*binDirs) == 0 {
		*binDirs = []string{filepath.Dir(self), "/opt/cni/bin"}
	}
	cfg := runtime.Config{
		DataDir: dirs.Runtime(), RunDir: dirs.Run, CNIConfDir: *confDir, CNIBinDirs: *binDirs, CNIPlugins: map[string]network.Plugin{"mote-cni": cni.Call}, CDIDirs: *cdiDirs,
		HoldSocket: dirs.HoldSocket(), HoldLock: lock, Holder: holder, Args: append([]string{self}, args[1:]...),
		Version: strings.TrimPrefix(version.Version, "v"), Log: log,
	}
	if *noHold {
		cfg.HoldSocket = ""
	}
	err = serve(cfg, dirs, log)
	if staged {
		err = errors.Join(err, stage.Clear(dirs.Run))
	}
	return err
}

func serve(cfg runtime.Config, dirs layout.Dirs, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	images, err := image.Open(image.Config{Dir: cfg.DataDir, Registries: dirs.Registries(), Log: log})
	if err != nil {
		return err
	}
	cfg.Images = images
	service, err := runtime.New(cfg)
	if err != nil {
		return err
	}
	admin, err := runtime.ListenUnix(dirs.RuntimeAdminSocket())
	if err != nil {
		return err
	}
	images.ImportAtStart(ctx, dirs.ImageArchives())
	go func() {
		if err := http.Serve(admin, image.AdminHandler(images)); err != nil {
			log.Error("serve the admin socket", "err", err)
		}
	}()
	err = service.Run(ctx, image.NewService(images))
	return errors.Join(err, images.Close()) // without its mark the layers are checked at the next boot
}
