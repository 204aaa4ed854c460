// Command deviceplugin is a device plugin for trying things out: it serves -count devices that all are /dev/null, and
// registers anew whenever the kubelet's socket is made anew, as stock plugins do. Its standard input takes lines
// "sick <id>" and "well <id>"; its end ends it.
//
// Reads:  flags, standard input.
// Writes: its socket in -dir.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/fsnotify/fsnotify"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/mote-edge/mote/agent/device/devicetest"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "deviceplugin:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	resource := flag.String("resource", "example.com/thing", "name of the extended resource")
	dir := flag.String("dir", "/var/lib/kubelet/device-plugins", "the kubelet's directory of device plugins")
	count := flag.Int("count", 4, "how many devices there are")
	flag.Parse()
	sick := map[string]bool{}
	p := &devicetest.Plugin{
		Resource: *resource, Dir: *dir, Socket: strings.ReplaceAll(*resource, "/", "-") + ".sock",
		Answer: func(ids []string) (*pluginapi.ContainerAllocateResponse, error) {
			fmt.Println("allocate", strings.Join(ids, ","))
			r := &pluginapi.ContainerAllocateResponse{Envs: map[string]string{"THINGS": strings.Join(ids, ",")}}
			for _, id := range ids {
				r.Devices = append(r.Devices, &pluginapi.DeviceSpec{ContainerPath: "/dev/" + id, HostPath: "/dev/null", Permissions: "rw"})
			}
			return r, nil
		},
	}
	set := func() {
		var list []*pluginapi.Device
		for i := range *count {
			id := fmt.Sprint("thing", i)
			list = append(list, devicetest.Device(id, !sick[id]))
		}
		p.Set(list...)
	}
	set()
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer func() { _ = watch.Close() }()
	if err := watch.Add(*dir); err != nil {
		return err
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
	}()
	serve := func() error {
		if err := p.Start(); err != nil {
			return err
		}
		if err := p.Register(ctx); err != nil {
			return err
		}
		fmt.Println("registered", *resource)
		return nil
	}
	if err := serve(); err != nil {
		return err
	}
	defer func() { p.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-watch.Events:
			if filepath.Base(e.Name) == "kubelet.sock" && e.Has(fsnotify.Create) {
				p.Stop()
				if err := serve(); err != nil {
					return err
				}
			}
		case line, ok := <-lines:
			if !ok {
				return nil
			}
			word, id, _ := strings.Cut(line, " ")
			sick[id] = word == "sick"
			set()
		}
	}
}
