package core

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
	translator "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/mote-edge/mote/controlplane/registry/resource"
	"github.com/mote-edge/mote/internal/wholeframes"
)

// errNoKubelets is the answer when the server was not told how to reach agents.
var errNoKubelets = errors.New("this API server has no way to the node agents (resource.Config.Kubelets is not set)")

// podStreams are the subresources of pods that the node's agent answers.
type podStreams struct {
	pods rest.Getter
	c    *resource.Config
}

func (p *podStreams) add(to resource.Storages) {
	to["pods/log"] = &podLog{p}
	to["pods/exec"] = &connecter[*corev1.PodExecOptions]{
		newOptions: func() *corev1.PodExecOptions { return &corev1.PodExecOptions{} }, methods: upgradeMethods,
		handle: func(ctx context.Context, name string, o *corev1.PodExecOptions, r rest.Responder) (http.Handler, error) {
			q := streamQuery(o.Stdin, o.Stdout, o.Stderr, o.TTY)
			q["command"] = o.Command
			return p.stream(ctx, "exec", name, o.Container, q,
				translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}, r)
		},
	}
	to["pods/attach"] = &connecter[*corev1.PodAttachOptions]{
		newOptions: func() *corev1.PodAttachOptions { return &corev1.PodAttachOptions{} }, methods: upgradeMethods,
		handle: func(ctx context.Context, name string, o *corev1.PodAttachOptions, r rest.Responder) (http.Handler, error) {
			return p.stream(ctx, "attach", name, o.Container, streamQuery(o.Stdin, o.Stdout, o.Stderr, o.TTY),
				translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}, r)
		},
	}
	to["pods/portforward"] = &connecter[*corev1.PodPortForwardOptions]{
		newOptions: func() *corev1.PodPortForwardOptions { return &corev1.PodPortForwardOptions{} }, methods: upgradeMethods,
		handle: p.forward,
	}
	to["pods/proxy"] = &connecter[*corev1.PodProxyOptions]{
		newOptions: func() *corev1.PodProxyOptions { return &corev1.PodProxyOptions{} }, methods: anyMethod, path: true,
		handle: func(ctx context.Context, id string, o *corev1.PodProxyOptions, r rest.Responder) (http.Handler, error) {
			location, err := podLocation(ctx, p.pods, id)
			if err != nil {
				return nil, err
			}
			return proxyTo(location, o.Path, proxyTransport(p.c), r), nil
		},
	}
}

func (p *podStreams) get(ctx context.Context, name string) (*corev1.Pod, error) {
	obj, err := p.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

// agent returns the base of the URL at the pod's agent.
func (p *podStreams) agent(ctx context.Context, node string, insecure bool) (*url.URL, http.RoundTripper, error) {
	if p.c.Kubelets == nil {
		return nil, nil, apierrors.NewInternalError(errNoKubelets)
	}
	if insecure {
		return p.c.Kubelets.Insecure(ctx, node)
	}
	return p.c.Kubelets.Connection(ctx, node)
}

// stream passes exec and attach on. Agents speak SPDY; a client that speaks the
// WebSocket protocol v5 is translated here.
func (p *podStreams) stream(ctx context.Context, verb, name, container string, q url.Values, o translator.Options, r rest.Responder) (http.Handler, error) {
	location, transport, err := p.location(ctx, name, func(pod *corev1.Pod) (string, error) {
		c, err := containerOf(pod, container)
		return fmt.Sprintf("/%s/%s/%s/%s", verb, pod.Namespace, pod.Name, c), err
	})
	if err != nil {
		return nil, err
	}
	location.RawQuery = q.Encode()
	plain, inWholeFrames := wholeFrames(location, transport)
	return translator.NewTranslatingHandler(
		proxy.NewUpgradeAwareHandler(location, transport, false, true, proxy.NewErrorResponder(r)),
		translator.NewStreamTranslatorHandler(plain, inWholeFrames, 0, o),
		wsstream.IsWebSocketRequestWithStreamCloseProtocol,
	), nil
}

// wholeFrames returns what reaches the same agent over the same TLS, with a frame of SPDY in each record. The translator puts TLS upon
// what a transport dials, where frames can't be told apart any more; so it is told that there is none, and dialling sees to it.
func wholeFrames(location *url.URL, transport http.RoundTripper) (*url.URL, http.RoundTripper) {
	secure, err := utilnet.TLSClientConfig(transport)
	dial, dialErr := utilnet.DialerFor(transport)
	if location.Scheme != "https" || err != nil || dialErr != nil || secure == nil || dial == nil {
		return location, transport
	}
	secure = secure.Clone()
	secure.ServerName, secure.NextProtos = location.Hostname(), []string{"http/1.1"}
	plain := *location
	plain.Scheme = "http"
	return &plain, &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(raw, secure)
		if err := conn.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		return wholeframes.Conn(conn), nil
	}}
}

func (p *podStreams) forward(ctx context.Context, name string, o *corev1.PodPortForwardOptions, r rest.Responder) (http.Handler, error) {
	location, transport, err := p.location(ctx, name, func(pod *corev1.Pod) (string, error) {
		return fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), nil
	})
	if err != nil {
		return nil, err
	}
	if len(o.Ports) > 0 {
		ports := make([]string, len(o.Ports))
		for i, n := range o.Ports {
			ports[i] = strconv.Itoa(int(n))
		}
		location.RawQuery = url.Values{corev1.PortHeader: {strings.Join(ports, ",")}}.Encode()
	}
	h := proxy.NewUpgradeAwareHandler(location, transport, false, true, proxy.NewErrorResponder(r))
	return translator.NewTranslatingHandler(h, translator.NewTunnelingHandler(h), wsstream.IsWebSocketRequestWithTunnelingProtocol), nil
}

func (p *podStreams) location(ctx context.Context, name string, path func(*corev1.Pod) (string, error)) (*url.URL, http.RoundTripper, error) {
	if err := mustBeAllowed(ctx, p.c.Authorizer, "create"); err != nil {
		return nil, nil, err
	}
	pod, err := p.get(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	where, err := path(pod)
	if err != nil {
		return nil, nil, err
	}
	if pod.Spec.NodeName == "" {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	location, transport, err := p.agent(ctx, pod.Spec.NodeName, false)
	if err != nil {
		return nil, nil, err
	}
	location.Path = where
	return location, transport, nil
}

func streamQuery(stdin, stdout, stderr, tty bool) url.Values {
	q := url.Values{}
	for name, on := range map[string]bool{
		corev1.ExecStdinParam: stdin, corev1.ExecStdoutParam: stdout, corev1.ExecStderrParam: stderr, corev1.ExecTTYParam: tty,
	} {
		if on {
			q.Set(name, "1")
		}
	}
	return q
}

// containerOf checks a container's name; with none it is the only one.
func containerOf(p *corev1.Pod, name string) (string, error) {
	var all []string
	for _, c := range p.Spec.InitContainers {
		all = append(all, c.Name)
	}
	for _, c := range p.Spec.Containers {
		all = append(all, c.Name)
	}
	for _, c := range p.Spec.EphemeralContainers {
		all = append(all, c.Name)
	}
	if name == "" {
		if len(p.Spec.Containers) == 1 {
			return p.Spec.Containers[0].Name, nil
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", p.Name, all))
	}
	for _, c := range all {
		if c == name {
			return name, nil
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, p.Name))
}

// podLog is pods/log.
type podLog struct{ *podStreams }

func (r *podLog) New() runtime.Object { return &corev1.Pod{} }
func (r *podLog) Destroy()            {}

// ProducesMIMETypes and ProducesObject describe the answer in OpenAPI.
func (r *podLog) ProducesMIMETypes(string) []string { return []string{"text/plain"} }
func (r *podLog) ProducesObject(string) any         { return "" }

func (r *podLog) NewGetOptions() (runtime.Object, bool, string) {
	return &corev1.PodLogOptions{}, false, ""
}

func (r *podLog) OverrideMetricsVerb(verb string) string {
	if verb == "GET" {
		return "CONNECT" // following a log may take hours
	}
	return verb
}

func (r *podLog) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	o, ok := options.(*corev1.PodLogOptions)
	if !ok {
		return nil, fmt.Errorf("invalid options object: %#v", options)
	}
	if errs := validateLogOptions(o); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), name, errs)
	}
	pod, err := r.get(ctx, name)
	if err != nil {
		return nil, err
	}
	container, err := containerOf(pod, o.Container)
	if err != nil {
		return nil, err
	}
	s := &genericrest.LocationStreamer{
		ContentType:     "text/plain",
		Flush:           o.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(corev1.Resource("pods/log"), name),
		RedirectChecker: genericrest.PreventRedirects,
	}
	if pod.Spec.NodeName == "" {
		return s, nil // an empty stream: there is no log yet
	}
	location, transport, err := r.agent(ctx, pod.Spec.NodeName, o.InsecureSkipTLSVerifyBackend)
	if err != nil {
		return nil, err
	}
	location.Path = fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container)
	location.RawQuery = logQuery(o).Encode()
	s.Location, s.Transport = location, transport
	return s, nil
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	flag := func(name string, on bool) {
		if on {
			q.Set(name, "true")
		}
	}
	number := func(name string, n *int64) {
		if n != nil {
			q.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	flag("follow", o.Follow)
	flag("previous", o.Previous)
	flag("timestamps", o.Timestamps)
	number("sinceSeconds", o.SinceSeconds)
	number("tailLines", o.TailLines)
	number("limitBytes", o.LimitBytes)
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	if o.Stream != nil {
		q.Set("stream", *o.Stream)
	}
	return q
}

func validateLogOptions(o *corev1.PodLogOptions) field.ErrorList {
	var errs field.ErrorList
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	if o.Stream != nil {
		switch *o.Stream {
		case corev1.LogStreamAll:
		case corev1.LogStreamStdout, corev1.LogStreamStderr:
			if o.TailLines != nil {
				errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
			}
		default:
			errs = append(errs, field.NotSupported(field.NewPath("stream"), *o.Stream,
				[]string{corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr}))
		}
	}
	return errs
}

var (
	_ rest.GetterWithOptions = (*podLog)(nil)
	_ rest.StorageMetadata   = (*podLog)(nil)
)
