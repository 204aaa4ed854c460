// Package image brings the images of containers to the node: pull policy, credentials from pull secrets, docker config
// files and credential provider plugins, back-off, and a bound on parallel pulls. The same image is pulled once for all
// who wait for it. Who has pulled an image is recorded: a pod that never could doesn't get it from the node either.
//
// Reads:  the runtime's image store, pull secrets, plugins' configuration and answers.
// Writes: the runtime's image store, the records in Config.Dir.
package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/meter"
	"github.com/mote-edge/mote/internal/imageref"
)

// The reasons why a container waits for its image.
const (
	ErrImagePull        = "ErrImagePull"
	ImagePullBackOff    = "ImagePullBackOff"
	ErrImageNeverPull   = "ErrImageNeverPull"
	ErrInvalidImageName = "InvalidImageName"
	ErrImageInspect     = "ImageInspectError"

	// These a runtime names at the beginning of its error.
	registryUnavailable       = "RegistryUnavailable"
	signatureValidationFailed = "SignatureValidationFailed"
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

// Config tells a puller what it needs to know of the node.
type Config struct {
	Images   runtimeapi.ImageServiceClient
	Parallel int // pulls at once, at least 1
	// Dir keeps the records of who has pulled what; empty: none are kept, and nobody is asked for credentials.
	Dir           string
	Verification  Policy       // empty: NeverVerifyPreloaded
	Allowlist     []string     // of NeverVerifyAllowlisted: names, or prefixes that end in "/*"
	Providers     *Providers   // nil: none
	Tally         *meter.Tally // nil counts nothing
	DockerConfigs []string     // docker config files, of which the first that exists counts; read anew for each pull
	Log           *slog.Logger
}

// Puller is the node's image puller.
type Puller struct {
	cfg    Config
	images runtimeapi.ImageServiceClient
	slots  chan struct{}
	now    func() time.Time
	verify *verifier // nil: everybody may use what is there
	adopt  sync.Once

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
	pulled
	err error
}

// pulled is how a pull went.
type pulled struct {
	used *login        // nil: none, or the runtime's own
	took time.Duration // without waiting for its turn
}

// New returns a puller. It starts nothing.
func New(cfg Config) (*Puller, error) {
	p := &Puller{cfg: cfg, images: cfg.Images, slots: make(chan struct{}, max(cfg.Parallel, 1)), now: time.Now, flights: map[string]*flight{}, waits: map[waitKey]*wait{}}
	if p.cfg.Log == nil {
		p.cfg.Log = slog.Default()
	}
	if cfg.Dir == "" {
		return p, nil
	}
	var err error
	p.verify, err = newVerifier(cfg.Verification, cfg.Allowlist, cfg.Dir)
	return p, err
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
	named, err := imageref.Parse(image)
	if err != nil {
		return "", &Error{Reason: ErrInvalidImageName, Message: fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", image, image, err)}
	}
	if named.Defaulted {
		return image + ":latest", nil
	}
	return image, nil
}

// fullName is an image's name with registry and tag, as runtimes list it; what can't be parsed is returned as it is.
func fullName(image string) string {
	named, err := imageref.Parse(image)
	if err != nil {
		return image
	}
	return named.String()
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
	logins := sync.OnceValues(func() ([]login, error) { return p.logins(ctx, r, ref) })
	if img != nil && policy != corev1.PullAlways {
		must, err := p.mustPull(ctx, r.Image, img.Id, logins)
		if err != nil {
			return nil, &Error{Reason: ErrImagePull, Message: err.Error(), RetryAt: p.now().Add(firstBackoff)}
		}
		if !must {
			r.Record(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", r.Image))
			return img, nil
		}
	}
	if policy == corev1.PullNever { // also if it is there, but not for this pod: it shouldn't learn that
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
	how, err := p.recordedPull(ctx, spec, r, logins)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		reason, text := pullError(r.Image, cri.Text(err))
		until := p.failed(key, reason+": "+text)
		r.Record(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", r.Image, cri.Text(err)))
		return nil, &Error{Reason: reason, Message: text, RetryAt: until}
	}
	p.mu.Lock()
	delete(p.waits, key)
	p.mu.Unlock()
	if img, err = p.status(ctx, spec); err != nil || img == nil {
		return nil, &Error{Reason: ErrImageInspect, Message: fmt.Sprintf("image %q is missing right after it was pulled", r.Image), RetryAt: p.now().Add(time.Second)}
	}
	p.cfg.Tally.Observe(meter.ImagePulls, how.took.Seconds(), meter.ImageSize(img.Size))
	took := p.now().Sub(begin).Truncate(time.Millisecond)
	r.Record(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.", r.Image, how.took.Truncate(time.Millisecond), took, img.Size))
	return img, nil
}

// pullError puts a runtime's error into the words of a waiting reason.
func pullError(image, text string) (reason, message string) {
	if rest, ok := strings.CutPrefix(text, registryUnavailable); ok {
		return registryUnavailable, fmt.Sprintf("image pull failed for %s because the registry is unavailable%s", image, rest)
	}
	if rest, ok := strings.CutPrefix(text, signatureValidationFailed); ok {
		return signatureValidationFailed, fmt.Sprintf("image pull failed for %s because the signature validation failed%s", image, rest)
	}
	return ErrImagePull, fmt.Sprintf("failed to pull image %q: %v", image, text)
}

// logins gathers the credentials for an image: the pod's secrets first, then the node's files and plugins.
func (p *Puller) logins(ctx context.Context, r Request, ref string) ([]login, error) {
	repo, err := repository(ref)
	if err != nil {
		return nil, err
	}
	var secrets, files, plugins keyring
	if err := secrets.addSecrets(r.Secrets); err != nil {
		return nil, err
	}
	if err := files.addFiles(p.cfg.DockerConfigs); err != nil {
		p.cfg.Log.Error("docker config file left out", "err", err) // the node's: other pods' pulls must go on
	}
	p.cfg.Providers.add(ctx, &plugins, r.Pod, repo)
	return slices.Concat(secrets.lookup(repo), files.lookup(repo), plugins.lookup(repo)), nil
}

// mustPull tells whether the pod may not use the image as it is there.
func (p *Puller) mustPull(ctx context.Context, image, id string, logins func() ([]login, error)) (bool, error) {
	if p.verify == nil {
		return false, nil
	}
	p.adoptIntents(ctx)
	return p.verify.mustPull(image, id, logins)
}

// adoptIntents looks once at what the agent before this one was pulling when it ended.
func (p *Puller) adoptIntents(ctx context.Context) {
	p.adopt.Do(func() {
		if len(p.verify.recs.intents()) == 0 {
			return
		}
		list, err := p.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
		if err == nil {
			names := map[string][]string{}
			for _, img := range list.Images {
				names[img.Id] = slices.Concat(img.RepoTags, img.RepoDigests)
			}
			err = p.verify.adopt(names)
		}
		if err != nil { // the intents stay: their images are verified as long as they are there
			p.cfg.Log.Warn("records of unfinished image pulls", "err", err)
		}
	})
}

// recordedPull is pull with its traces in the records.
func (p *Puller) recordedPull(ctx context.Context, spec *runtimeapi.ImageSpec, r Request, logins func() ([]login, error)) (pulled, error) {
	list, err := logins()
	if err != nil {
		return pulled{}, err
	}
	if p.verify == nil {
		return p.pull(ctx, spec, r, list)
	}
	p.adoptIntents(ctx)
	if err := p.verify.begin(r.Image); err != nil {
		return pulled{}, err
	}
	how, err := p.pull(ctx, spec, r, list)
	id := ""
	if err == nil {
		img, serr := p.status(ctx, spec)
		if serr == nil && img != nil {
			id = img.Id
		}
	}
	if rerr := p.verify.end(r.Image, id, how.used); rerr != nil {
		p.cfg.Log.Error("image pull not recorded", "image", r.Image, "err", rerr)
	}
	return how, err
}

// Prune drops the records of images that were gone when they were listed.
func (p *Puller) Prune(there func(id string) bool, listed time.Time) {
	if p.verify != nil {
		p.verify.mu.Lock()
		defer p.verify.mu.Unlock()
		p.verify.recs.prune(there, listed)
	}
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
func (p *Puller) pull(ctx context.Context, spec *runtimeapi.ImageSpec, r Request, logins []login) (pulled, error) {
	key := fmt.Sprintf("%s\x00%s\x00%v", spec.Image, spec.RuntimeHandler, fingerprint(logins))
	for {
		p.mu.Lock()
		f := p.flights[key]
		if f == nil {
			f = &flight{done: make(chan struct{})}
			p.flights[key] = f
			p.mu.Unlock()
			f.pulled, f.err = p.attempt(ctx, spec, r.Sandbox, logins)
			p.mu.Lock()
			delete(p.flights, key)
			p.mu.Unlock()
			close(f.done)
			return f.pulled, f.err
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return pulled{}, ctx.Err()
		case <-f.done:
		}
		if !errors.Is(f.err, context.Canceled) {
			return f.pulled, f.err
		}
	}
}

func (p *Puller) attempt(ctx context.Context, spec *runtimeapi.ImageSpec, sandbox *runtimeapi.PodSandboxConfig, logins []login) (pulled, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return pulled{}, context.Canceled
	}
	begin := p.now()
	if len(logins) == 0 {
		logins = []login{{}}
	}
	var errs []error
	for i := range logins {
		_, err := p.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: logins[i].auth, SandboxConfig: sandbox})
		if err == nil {
			return pulled{used: &logins[i], took: p.now().Sub(begin)}, nil
		}
		if ctx.Err() != nil {
			return pulled{}, context.Canceled
		}
		errs = append(errs, err)
	}
	if len(errs) == 1 {
		return pulled{}, errs[0]
	}
	return pulled{}, errors.Join(errs...)
}
