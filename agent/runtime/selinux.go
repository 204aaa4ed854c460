package runtime

import (
	"errors"
	"fmt"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// labels are what SELinux knows a sandbox or container by; empty where there is no SELinux.
type labels struct {
	ProcessLabel string `json:"processLabel,omitempty"`
	MountLabel   string `json:"mountLabel,omitempty"`
}

// labelling tells whether pods get labels: SELinux is on, and its policy knows the labels that it names for containers. On
// a host with a policy that doesn't, which is not rare outside Red Hat's family, every mount would be refused.
func labelling() (bool, error) {
	if !selinux.GetEnabled() {
		return false, nil
	}
	process, file := selinux.ContainerLabels()
	defer selinux.ReleaseLabel(process)
	if process == "" || file == "" {
		return false, errors.New("its policy names no labels for containers (lxc_contexts)")
	}
	for _, l := range []string{process, file} {
		if err := selinux.SecurityCheckContext(l); err != nil {
			return false, fmt.Errorf("its policy doesn't know the label %s: %w", l, err)
		}
	}
	return true, nil
}

// newLabels are the policy's labels for containers, changed as asked. The level, which parts pods from each other, is a
// new one unless it is given; it is in use until releaseLabels.
func (s *Service) newLabels(asked *cri.SELinuxOption) (labels, error) {
	if !s.selinux {
		return labels{}, nil
	}
	process, mount, err := label.InitLabels(labelOptions(asked))
	if err != nil {
		return labels{}, fmt.Errorf("SELinux options of the sandbox: %w: %w", err, errInvalid)
	}
	return labels{process, mount}, nil
}

// containerLabels are the sandbox's labels, changed as the container asks. It keeps the sandbox's level, or it couldn't use
// the pod's volumes, unless it names another.
func containerLabels(sb labels, sandbox, asked *cri.SELinuxOption) (labels, error) {
	if sb.ProcessLabel == "" || asked == nil || labelKey(asked) == labelKey(sandbox) {
		return sb, nil
	}
	context, err := selinux.NewContext(sb.ProcessLabel)
	if err != nil {
		return labels{}, fmt.Errorf("SELinux label of the sandbox: %w", err)
	}
	options := &cri.SELinuxOption{User: asked.User, Role: asked.Role, Type: asked.Type, Level: asked.Level}
	if options.Level == "" {
		options.Level = context["level"]
	}
	process, mount, err := label.InitLabels(labelOptions(options))
	if err != nil {
		return labels{}, fmt.Errorf("SELinux options of the container: %w: %w", err, errInvalid)
	}
	return labels{process, mount}, nil
}

func labelKey(o *cri.SELinuxOption) [4]string {
	return [4]string{o.GetUser(), o.GetRole(), o.GetType(), o.GetLevel()}
}

// labelOptions spells options as package label reads them.
func labelOptions(o *cri.SELinuxOption) []string {
	var out []string
	for _, each := range [][2]string{{"user", o.GetUser()}, {"role", o.GetRole()}, {"type", o.GetType()}, {"level", o.GetLevel()}} {
		if each[1] != "" {
			out = append(out, each[0]+":"+each[1])
		}
	}
	return out
}

// keepLabels notes that the level of a sandbox of an earlier runtime is in use.
func keepLabels(l labels) {
	if l.ProcessLabel != "" {
		selinux.ReserveLabel(l.ProcessLabel)
	}
}

// releaseLabels gives a sandbox's level back, once.
func releaseLabels(l *labels) {
	if l.ProcessLabel != "" {
		selinux.ReleaseLabel(l.ProcessLabel)
		*l = labels{}
	}
}

// relabel lets a container use files of its own pod. Filesystems without labels need none.
func relabel(path, mountLabel string) error {
	err := label.Relabel(path, mountLabel, false)
	if err == nil || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EROFS) {
		return nil
	}
	return fmt.Errorf("SELinux label of %s: %w", path, err)
}
