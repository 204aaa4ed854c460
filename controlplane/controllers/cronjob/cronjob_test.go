package cronjob

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/controlplane/controllers/workloadtest"
)

func ptr[T any](v T) *T { return &v }

func when(s string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", s)
	if err != nil {
		panic(err)
	}
	return t
}

func cronJob(schedule string, edit ...func(*batchv1.CronJob)) *batchv1.CronJob {
	cj := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "tick", Namespace: "default", UID: "cj", CreationTimestamp: metav1.NewTime(when("2026-03-01 10:00:30"))},
		Spec:       batchv1.CronJobSpec{Schedule: schedule, ConcurrencyPolicy: batchv1.AllowConcurrent},
	}
	for _, e := range edit {
		e(cj)
	}
	return cj
}

func lastAt(s string) func(*batchv1.CronJob) {
	return func(cj *batchv1.CronJob) { cj.Status.LastScheduleTime = &metav1.Time{Time: when(s)} }
}

func TestTimetable(t *testing.T) {
	for _, c := range []struct {
		name string
		cj   *batchv1.CronJob
		now  string
		due  string
		wait time.Duration
		many bool
	}{
		{"nothing yet", cronJob("0 * * * *"), "2026-03-01 10:59:00", "", time.Minute, false},
		{"due now", cronJob("0 * * * *"), "2026-03-01 11:00:00", "2026-03-01 11:00:00", time.Hour, false},
		{"due a little ago", cronJob("0 * * * *"), "2026-03-01 11:00:10", "2026-03-01 11:00:00", 59*time.Minute + 50*time.Second, false},
		{"served", cronJob("0 * * * *", lastAt("2026-03-01 11:00:00")), "2026-03-01 11:00:10", "", 59*time.Minute + 50*time.Second, false},
		{"the last of several", cronJob("0 * * * *"), "2026-03-01 15:30:00", "2026-03-01 15:00:00", 30 * time.Minute, false},
		{"a hundred and more", cronJob("* * * * *"), "2026-03-03 10:00:30", "2026-03-03 10:00:00", 30 * time.Second, true},
		{"a clock that jumped by years", cronJob("* * * * *"), "2036-03-03 10:00:30", "2036-03-03 10:00:00", 30 * time.Second, true},
		{"a deadline forgets", cronJob("0 * * * *", func(cj *batchv1.CronJob) { cj.Spec.StartingDeadlineSeconds = ptr(int64(60)) }), "2026-03-01 15:30:00", "", 30 * time.Minute, false},
		{"within the deadline", cronJob("0 * * * *", func(cj *batchv1.CronJob) { cj.Spec.StartingDeadlineSeconds = ptr(int64(3600)) }), "2026-03-01 15:30:00", "2026-03-01 15:00:00", 30 * time.Minute, false},
		{"even steps keep their phase", cronJob("@every 90m", lastAt("2026-03-01 10:07:00")), "2026-03-01 22:00:00", "2026-03-01 20:37:00", 7 * time.Minute, false},
		{"a month", cronJob("0 0 1 * *", lastAt("2026-01-01 00:00:00")), "2026-07-15 00:00:00", "2026-07-01 00:00:00", 17 * 24 * time.Hour, false},
		{"working days", cronJob("0 9 * * 1-5", lastAt("2026-02-27 09:00:00")), "2026-03-09 08:00:00", "2026-03-06 09:00:00", time.Hour, false},
		{"another zone", cronJob("0 9 * * *", func(cj *batchv1.CronJob) { cj.Spec.TimeZone = ptr("Asia/Tokyo") }), "2026-03-02 00:00:05", "2026-03-02 00:00:00", 24*time.Hour - 5*time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := parse(c.cj)
			if err != nil {
				t.Fatal(err)
			}
			got, err := timetable(c.cj, s, when(c.now))
			if err != nil {
				t.Fatal(err)
			}
			due := ""
			if !got.due.IsZero() {
				due = got.due.UTC().Format("2006-01-02 15:04:05")
			}
			if due != c.due || got.wait != c.wait+grace || got.missed != c.many {
				t.Errorf("due %q, wait %v, missed %v; want %q, %v, %v", due, got.wait, got.missed, c.due, c.wait+grace, c.many)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for schedule, want := range map[string]error{
		"* * * * *": nil, "@hourly": nil, "TZ=UTC * * * * *": nil, "": errSchedule, "61 * * * *": errSchedule, "TZ=": errSchedule, "* * * *": errSchedule,
	} {
		if _, err := parse(cronJob(schedule)); !errors.Is(err, want) {
			t.Errorf("%q: %v", schedule, err)
		}
	}
	if _, err := parse(cronJob("* * * * *", func(cj *batchv1.CronJob) { cj.Spec.TimeZone = ptr("Moon/Crater") })); !errors.Is(err, errZone) {
		t.Errorf("zone: %v", err)
	}
}

func jobAt(name string, how batchv1.JobConditionType, start string) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}}
	if start != "" {
		j.Status.StartTime = &metav1.Time{Time: when(start)}
	}
	if how != "" {
		j.Status.Conditions = []batchv1.JobCondition{{Type: how, Status: corev1.ConditionTrue}}
		j.Status.CompletionTime = j.Status.StartTime
	}
	return j
}

func TestHistory(t *testing.T) {
	cj := cronJob("* * * * *", func(cj *batchv1.CronJob) {
		cj.Spec.SuccessfulJobsHistoryLimit, cj.Spec.FailedJobsHistoryLimit = ptr(int32(1)), ptr(int32(0))
	})
	jobs := []*batchv1.Job{
		jobAt("b", batchv1.JobComplete, "2026-03-01 02:00:00"), jobAt("a", batchv1.JobComplete, "2026-03-01 01:00:00"),
		jobAt("c", batchv1.JobComplete, "2026-03-01 03:00:00"), jobAt("f", batchv1.JobFailed, "2026-03-01 09:00:00"), jobAt("r", "", "2026-03-01 00:00:00"),
	}
	var names []string
	for _, j := range expired(cj, jobs) {
		names = append(names, j.Name)
	}
	if got := strings.Join(names, " "); got != "a b f" {
		t.Errorf("expired %q", got)
	}
	cj.Spec.SuccessfulJobsHistoryLimit, cj.Spec.FailedJobsHistoryLimit = nil, nil
	if len(expired(cj, jobs)) != 0 {
		t.Error("no limits, none expires")
	}
}

func TestSettle(t *testing.T) {
	cj := cronJob("* * * * *")
	for _, n := range []string{"done", "running", "lost"} {
		cj.Status.Active = append(cj.Status.Active, corev1.ObjectReference{Name: n, UID: types.UID(n)})
	}
	jobs := []*batchv1.Job{
		jobAt("done", batchv1.JobComplete, "2026-03-01 02:00:00"), jobAt("running", "", ""), jobAt("odd", "", ""),
		jobAt("old", batchv1.JobComplete, "2026-03-01 01:00:00"), jobAt("bad", batchv1.JobFailed, "2026-03-01 05:00:00"),
	}
	var reasons []string
	for _, e := range settle(cj, jobs, []types.UID{"lost"}) {
		reasons = append(reasons, e.reason)
	}
	if got := strings.Join(reasons, " "); got != "SawCompletedJob UnexpectedJob MissingJob" {
		t.Errorf("events %q", got)
	}
	if len(cj.Status.Active) != 1 || cj.Status.Active[0].Name != "running" {
		t.Errorf("active %v", cj.Status.Active)
	}
	if !cj.Status.LastSuccessfulTime.Time.Equal(when("2026-03-01 02:00:00")) {
		t.Errorf("last success %v", cj.Status.LastSuccessfulTime)
	}
}

func TestController(t *testing.T) {
	for policy, want := range map[batchv1.ConcurrencyPolicy]int{batchv1.AllowConcurrent: 2, batchv1.ForbidConcurrent: 1, batchv1.ReplaceConcurrent: 1} {
		t.Run(string(policy), func(t *testing.T) {
			cj := cronJob("* * * * *", func(cj *batchv1.CronJob) {
				cj.Spec.ConcurrencyPolicy = policy
				cj.Status.LastScheduleTime = &metav1.Time{Time: when("2026-03-01 10:00:00")}
				cj.Status.Active = []corev1.ObjectReference{{Name: "tick-29539320", Namespace: "default", UID: "first"}}
			})
			first := newJob(cj, when("2026-03-01 10:00:00"))
			first.UID = "first"
			first.Name = "tick-29539320"
			c := workloadtest.New(t, cj, first)
			ctl, err := New(c.Client, c.Informers, c.Recorder)
			if err != nil {
				t.Fatal(err)
			}
			ctl.now = func() time.Time { return when("2026-03-01 10:01:02") }
			c.Start(ctl.Run)
			list := func() []batchv1.Job {
				l, err := c.Client.BatchV1().Jobs("default").List(context.Background(), metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				return l.Items
			}
			get := func() *batchv1.CronJob {
				cj, err := c.Client.BatchV1().CronJobs("default").Get(context.Background(), "tick", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				return cj
			}
			if policy == batchv1.ForbidConcurrent {
				if e := c.Event(); !strings.Contains(e, "JobAlreadyActive") {
					t.Errorf("event %q", e)
				}
			} else {
				c.Eventually("the start time is served", func() bool {
					return get().Status.LastScheduleTime.Time.Equal(when("2026-03-01 10:01:00"))
				})
			}
			if n := len(list()); n != want || len(get().Status.Active) != want {
				t.Errorf("%d jobs, active %v", n, get().Status.Active)
			}
			if policy == batchv1.ReplaceConcurrent && list()[0].UID == "first" {
				t.Error("the old one is still there")
			}
		})
	}
}
