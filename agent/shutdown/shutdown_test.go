package shutdown

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pod(name string, priority int32, grace int64) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	p.Spec.Priority, p.Spec.TerminationGracePeriodSeconds = &priority, &grace
	return p
}

func TestGroups(t *testing.T) {
	none := pod("none", 0, 30)
	none.Spec.Priority = nil
	pods := []*corev1.Pod{pod("critical", systemCritical+1000, 60), pod("low", -10, 5), pod("high", 1000, 30), none}
	for _, tc := range []struct {
		periods []Period
		want    string
	}{
		{Periods(30*time.Second, 10*time.Second), "0/20s: low/5s high/20s none/20s | 2000000000/10s: critical/10s"},
		{[]Period{{1000, 7 * time.Second}, {0, 5 * time.Second}, {500, 6 * time.Second}}, "0/5s: low/5s none/5s | 1000/7s: critical/7s high/7s"},
		{[]Period{{10000, 9 * time.Second}, {1000, 7 * time.Second}}, "1000/7s: low/5s high/7s none/7s | 10000/9s: critical/9s"},
	} {
		var out []string
		for _, g := range groups(tc.periods, pods) {
			s := fmt.Sprintf("%d/%v:", g.Priority, g.Grace)
			for _, p := range g.pods {
				s += fmt.Sprintf(" %s/%v", p.Name, g.grace(p))
			}
			out = append(out, s)
		}
		if got := strings.Join(out, " | "); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.periods, got, tc.want)
		}
	}
	if p := Periods(0, 0); p != nil || total(p) != 0 {
		t.Error(p)
	}
}

// logind is a login1 and systemd1 that does what the test says, on a D-Bus of its own.
type logind struct {
	t       *testing.T
	address string
	confDir string
	conn    *dbus.Conn
	props   *prop.Properties

	mu   sync.Mutex
	held []*os.File // our ends of the inhibitors
}

// Inhibit implements login1.Manager: the lock is held until its writing end is closed.
func (l *logind) Inhibit(what, _, _, mode string) (dbus.UnixFD, *dbus.Error) {
	if what != "shutdown" || mode != "delay" {
		return 0, dbus.MakeFailedError(fmt.Errorf("inhibit %s, %s", what, mode))
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	l.mu.Lock()
	l.held = append(l.held, os.NewFile(uintptr(fds[0]), "lock"))
	l.mu.Unlock()
	// Our copy of the writing end goes once the reply has been sent, which the library doesn't tell.
	time.AfterFunc(100*time.Millisecond, func() { _ = unix.Close(fds[1]) })
	return dbus.UnixFD(fds[1]), nil
}

// KillUnit implements systemd1.Manager as far as a SIGHUP for logind goes: it reads its configuration, after a while.
func (l *logind) KillUnit(unit, _ string, signal int32) *dbus.Error {
	b, err := os.ReadFile(filepath.Join(l.confDir, override))
	if err != nil || unit != "systemd-logind.service" || signal != 1 {
		return dbus.MakeFailedError(fmt.Errorf("%s, %d, %w", unit, signal, err))
	}
	var seconds uint64
	_, text, _ := strings.Cut(string(b), "InhibitDelayMaxSec=")
	if _, err := fmt.Sscan(text, &seconds); err != nil {
		return dbus.MakeFailedError(err)
	}
	time.AfterFunc(80*time.Millisecond, func() { l.props.SetMust(login1Manager, "InhibitDelayMaxUSec", seconds*1e6) })
	return nil
}

// locks counts the inhibitors that were taken and are still held.
func (l *logind) locks() (taken, held int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.held {
		_ = r.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := r.Read(make([]byte, 1)); os.IsTimeout(err) {
			held++
		}
	}
	return len(l.held), held
}

func (l *logind) prepare(begins bool) {
	l.t.Helper()
	l.props.SetMust(login1Manager, "PreparingForShutdown", begins)
	if err := l.conn.Emit(login1Path, login1Manager+".PrepareForShutdown", begins); err != nil {
		l.t.Fatal(err)
	}
}

func newLogind(t *testing.T) *logind {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("no dbus-daemon: apt-get install dbus")
	}
	dir := t.TempDir()
	l := &logind{t: t, address: "unix:path=" + dir + "/bus", confDir: filepath.Join(dir, "logind.conf.d")}
	config := `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>` + l.address + `</listen><policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`
	if err := os.WriteFile(filepath.Join(dir, "bus.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+filepath.Join(dir, "bus.conf"), "--nofork", "--nosyslog", "--print-address=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 256)); err != nil { // it listens once it has printed its address
		t.Fatal(err)
	}
	if l.conn, err = dbus.Connect(l.address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.conn.Close() })
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(l.conn.ExportMethodTable(map[string]any{"Inhibit": l.Inhibit}, login1Path, login1Manager))
	check(l.conn.ExportMethodTable(map[string]any{"KillUnit": l.KillUnit}, systemd1Path, systemd1+".Manager"))
	l.props, err = prop.Export(l.conn, login1Path, prop.Map{login1Manager: {
		"InhibitDelayMaxUSec":  {Value: uint64(5e6), Emit: prop.EmitFalse},
		"PreparingForShutdown": {Value: false, Emit: prop.EmitFalse},
	}})
	check(err)
	for _, name := range []string{login1, systemd1} {
		_, err := l.conn.RequestName(name, dbus.NameFlagDoNotQueue)
		check(err)
	}
	return l
}

// fakePods end as soon as they are told to, but for those that are stubborn.
type fakePods struct {
	mu       sync.Mutex
	pods     []*corev1.Pod
	stubborn string
	ended    []string
}

func (f *fakePods) Active() []*corev1.Pod {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.pods)
}

func (f *fakePods) End(pod *corev1.Pod, grace time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = append(f.ended, fmt.Sprintf("%s/%v", pod.Name, grace))
	if pod.Name != f.stubborn {
		f.pods = slices.DeleteFunc(f.pods, func(p *corev1.Pod) bool { return p.UID == pod.UID })
	}
}

func (f *fakePods) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.ended, " ")
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within ten seconds: " + what)
		}
	}
}

func TestShutdownEndsPodsInOrder(t *testing.T) {
	l := newLogind(t)
	pods := &fakePods{pods: []*corev1.Pod{pod("critical", systemCritical, 60), pod("b", 5, 3), pod("a", 0, 60)}, stubborn: "a"}
	var mu sync.Mutex
	var events []string
	s := New(Config{
		Periods: Periods(12*time.Second, 11*time.Second), Address: l.address, ConfDir: l.confDir, Pods: pods,
		Event: func(_, reason, message string) { mu.Lock(); events = append(events, reason+": "+message); mu.Unlock() },
	})
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	until(t, "inhibitor", func() bool { _, held := l.locks(); return held == 1 })
	if v, err := l.props.Get(login1Manager, "InhibitDelayMaxUSec"); err != nil || v.Value() != uint64(12e6) {
		t.Errorf("logind waits for %v: %v", v, err)
	}
	if s.Status() != nil {
		t.Error("shutting down already")
	}
	l.prepare(true)
	until(t, "shutdown", func() bool { return s.Status() != nil })
	if s.Status().Error() != "node is shutting down" {
		t.Error(s.Status())
	}
	if reason, _ := s.Refuse(nil); reason != "NodeShutdown" {
		t.Errorf("refused for %q", reason)
	}
	until(t, "all pods", func() bool { return strings.HasSuffix(pods.text(), "critical/11s") })
	if got := pods.text(); got != "b/1s a/1s critical/11s" {
		t.Errorf("%s", got)
	}
	until(t, "release", func() bool { _, held := l.locks(); return held == 0 })
	if begin, end := s.Times(); end.Sub(begin) < time.Second { // a's second was waited for
		t.Errorf("from %v to %v", begin, end)
	}
	l.prepare(false)
	until(t, "the next inhibitor", func() bool { taken, held := l.locks(); return taken == 2 && held == 1 })
	if s.Status() != nil {
		t.Error("still shutting down")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(events) != 2 || events[0] != "NodeShutdown: Shutdown manager detected shutdown event" {
		t.Errorf("%q", events)
	}
}

// An agent that starts while the machine goes down ends what is left.
func TestShutdownUnderWay(t *testing.T) {
	l := newLogind(t)
	l.props.SetMust(login1Manager, "PreparingForShutdown", true)
	pods := &fakePods{pods: []*corev1.Pod{pod("a", 0, 60)}}
	s := New(Config{Periods: []Period{{0, 2 * time.Second}}, Address: l.address, ConfDir: l.confDir, Pods: pods, Event: func(string, string, string) {}})
	go func() { _ = s.Run(t.Context()) }()
	until(t, "end", func() bool { return pods.text() == "a/2s" && s.Status() != nil })
	if _, err := os.Stat(filepath.Join(l.confDir, override)); err == nil {
		t.Error("logind was told what it does anyway")
	}
}

// A shutdown that was called off while the connection to D-Bus was down is over all the same.
func TestShutdownCalledOffUnseen(t *testing.T) {
	l := newLogind(t)
	s := New(Config{Periods: []Period{{0, 2 * time.Second}}, Address: l.address, ConfDir: l.confDir, Pods: &fakePods{}, Event: func(string, string, string) {}})
	s.set(true)
	go func() { _ = s.Run(t.Context()) }()
	until(t, "pods are taken again", func() bool { return s.Status() == nil })
	until(t, "inhibitor", func() bool { _, held := l.locks(); return held == 1 })
}

func TestWithoutLogind(t *testing.T) {
	if _, err := dial(t.Context(), "unix:path="+t.TempDir()+"/none", ""); err == nil || !strings.Contains(err.Error(), "no D-Bus at ") {
		t.Error(err)
	}
}
