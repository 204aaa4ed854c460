// Package image brings the images of containers to the node: pull policy, credentials from pull secrets, back-off, and
// a bound on parallel pulls. The same image is pulled once for all who wait for it.
//
// Reads:  the runtime's image store, pull secrets.
// Writes: the runtime's image store.
package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
)

// The reasons why a container waits for its image.
const (
	ErrImagePull        = "ErrImagePull"
	ImagePullBackOff    = "ImagePullBackOff"
	ErrImageNeverPull   = "ErrImageNeverPull"
	ErrInvalidImageName = "InvalidImageName"
	ErrImageInspect     = "ImageInspectError"
)

const (
	firstBackoff = 10 * time.Second
	maxBackoff   = 5 * time.Minute
)

// Error says why an image isn't there, in the words of waiting reasons, and when it makes sense to ask again.
type Error struct {
	Reason, Message string
	RetryAt         time.Time
}

func (e *Error) Error() string { return e.Message }

// Recorder is told of pulls: kind, reason, message as events have them.
type Recorder func(kind, reason, message string)

// Request asks for one container's image.
type Request struct {
	Pod     *corev1.Pod
	Image   string
	Policy  corev1.PullPolicy
	Handler string // runtime handler of the pod's RuntimeClass
	Sandbox *runtimeapi.PodSandboxConfig
	Secrets []corev1.Secret // of the pod's imagePullSecrets
	Record  Recorder
}

// Puller is the node's image puller.
type Puller struct {
	images runtimeapi.ImageServiceClient
	slots  chan struct{}
	now    func() time.Time

	mu      sync.Mutex
	flights map[string]*flight
	waits   map[waitKey]*wait
}

type waitKey struct {
	uid   types.UID
	image string
}

type wait struct {
	delay   time.Duration
	until   time.Time
	message string
}

type flight struct {
	done chan struct{}
	err  error
}

// New returns a puller that pulls at most parallel images at once.
func New(images runtimeapi.ImageServiceClient, parallel int) *Puller {
	return &Puller{images: images, slots: make(chan struct{}, max(parallel, 1)), now: time.Now, flights: map[string]*flight{}, waits: map[waitKey]*wait{}}
}

// Forget drops the back-off of a pod that is gone.
func (p *Puller) Forget(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.waits {
		if k.uid == uid {
			delete(p.waits, k)
		}
	}
}

// Normalize gives a reference without a tag or digest the tag latest.
func Normalize(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", &Error{Reason: ErrInvalidImageName, Message: fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", image, image, err)}
	}
	if reference.IsNameOnly(named) {
		return image + ":latest", nil
	}
	return image, nil
}

// Ensure returns the image once it is there; the error is an *Error unless ctx has ended.
func (p *Puller) Ensure(ctx context.Context, r Request) (*runtimeapi.Image, error) {
	ref, err := Normalize(r.Image)
	if err != nil {
		r.Record(corev1.EventTypeWarning, "InspectFailed", err.Error())
		return nil, err
	}
	spec := &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: r.Image, RuntimeHandler: r.Handler}
	img, err := p.status(ctx, spec)
	if err != nil {
		msg := fmt.Sprintf("Failed to inspect image %q: %v", r.Image, cri.Text(err))
		r.Record(corev1.EventTypeWarning, "InspectFailed", msg)
		return nil, &Error{Reason: ErrImageInspect, Message: msg, RetryAt: p.now().Add(time.Second)}
	}
	policy := r.Policy
	if policy == "" {
		if policy = corev1.PullIfNotPresent; strings.HasSuffix(ref, ":latest") {
			policy = corev1.PullAlways
		}
	}
	if img != nil && policy != corev1.PullAlways {
		r.Record(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", r.Image))
		return img, nil
	}
	if policy == corev1.PullNever {
		msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", r.Image)
		r.Record(corev1.EventTypeWarning, ErrImageNeverPull, msg)
		return nil, &Error{Reason: ErrImageNeverPull, Message: msg, RetryAt: p.now().Add(firstBackoff)}
	}
	key := waitKey{r.Pod.UID, ref}
	if w := p.waiting(key); w != nil {
		r.Record(corev1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", r.Image))
		return nil, &Error{Reason: ImagePullBackOff, Message: fmt.Sprintf("Back-off pulling image %q: %s", r.Image, w.message), RetryAt: w.until}
	}
	r.Record(corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", r.Image))
	begin := p.now()
	if err := p.pull(ctx, spec, r); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		text := fmt.Sprintf("failed to pull image %q: %v", r.Image, cri.Text(err))
		until := p.failed(key, ErrImagePull+": "+text)
		r.Record(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", r.Image, cri.Text(err)))
		return nil, &Error{Reason: ErrImagePull, Message: text, RetryAt: until}
	}
	p.mu.Lock()
	delete(p.waits, key)
	p.mu.Unlock()
	if img, err = p.status(ctx, spec); err != nil || img == nil {
		return nil, &Error{Reason: ErrImageInspect, Message: fmt.Sprintf("image %q is missing right after it was pulled", r.Image), RetryAt: p.now().Add(time.Second)}
	}
	took := p.now().Sub(begin).Truncate(time.Millisecond)
	r.Record(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.", r.Image, took, took, img.Size))
	return img, nil
}

func (p *Puller) status(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	r, err := p.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		return nil, err
	}
	return r.GetImage(), nil
}

func (p *Puller) waiting(key waitKey) *wait {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.waits[key]; w != nil && p.now().Before(w.until) {
		return w
	}
	return nil
}

func (p *Puller) failed(key waitKey, message string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.waits[key]
	if w == nil {
		w = &wait{delay: firstBackoff}
		p.waits[key] = w
	} else {
		w.delay = min(2*w.delay, maxBackoff)
	}
	w.until, w.message = p.now().Add(w.delay), message
	return w.until
}

// pull joins a pull of the same image with the same credentials, or makes one. The pull ends with the first caller's
// context; the others then try themselves.
func (p *Puller) pull(ctx context.Context, spec *runtimeapi.ImageSpec, r Request) error {
	auths, err := Credentials(spec.Image, r.Secrets)
	if err != nil {
		return err
	}
	key := fmt.Sprintf("%s\x00%s\x00%v", spec.Image, spec.RuntimeHandler, fingerprint(auths))
	for {
		p.mu.Lock()
		f := p.flights[key]
		if f == nil {
			f = &flight{done: make(chan struct{})}
			p.flights[key] = f
			p.mu.Unlock()
			f.err = p.attempt(ctx, spec, r.Sandbox, auths)
			p.mu.Lock()
			delete(p.flights, key)
			p.mu.Unlock()
			close(f.done)
			return f.err
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.done:
		}
		if !errors.Is(f.err, context.Canceled) {
			return f.err
		}
	}
}

func (p *Puller) attempt(ctx context.Context, spec *runtimeapi.ImageSpec, sandbox *runtimeapi.PodSandboxConfig, auths []*runtimeapi.AuthConfig) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return context.Canceled
	}
	if len(auths) == 0 {
		auths = []*runtimeapi.AuthConfig{nil}
	}
	var errs []error
	for _, a := range auths {
		_, err := p.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: a, SandboxConfig: sandbox})
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Canceled
		}
		errs = append(errs, err)
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}
