// Command compare runs test/cri and cri-tools' suite in it against mote-runtime and containerd, and writes what passed as
// a table between the lines "<!-- cri -->" and "<!-- /cri -->" of a Markdown file. With -vm they run in a virtual machine
// (test/vm: kernel 6.1, cgroup v2), and the lines are "<!-- cri vm -->" and "<!-- /cri vm -->".
//
// Reads:  test/cri; what test/peers/build made; with -vm Mote's programs in $MOTE_BIN or bin.
// Writes: the file named by -doc, and the tests' output into -logs.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var runtimes = []string{"mote", "containerd"}

// parts of a run take minutes each.
var parts = []struct{ name, flag string }{{"critest", "-test.run=^TestCritest$"}, {"own", "-test.skip=^TestCritest$"}}

func main() {
	doc := flag.String("doc", "docs/conformance.md", "the file with the table")
	logs := flag.String("logs", os.TempDir(), "where cri-mote-critest.json, cri-mote-own.json and so on go")
	machine := flag.Bool("vm", false, "run them in a virtual machine; the logs' names end in -vm then")
	only := flag.String("only", "", "run this part alone (mote, containerd, or one's critest or own, as in mote/own) and take the others' last runs from -logs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := (comparison{*doc, *logs, *machine, *only}).run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

type comparison struct {
	doc, logs string
	machine   bool
	only      string
}

func (c comparison) run(ctx context.Context) error {
	logs, err := filepath.Abs(c.logs)
	if err != nil {
		return err
	}
	areas, err := areasOf("test/cri")
	if err != nil {
		return err
	}
	program := filepath.Join(logs, "cri.test") // once: what is being edited meanwhile must not tell the columns apart
	build := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "netgo,osusergo,seccomp", "-o", program, "./test/cri")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the tests: %w", err)
	}
	defer os.Remove(program)
	run, mark, suffix := runTests, "cri", ""
	if c.machine {
		guest, err := newGuest(ctx, logs, program)
		if err != nil {
			return err
		}
		defer guest.close()
		run, mark, suffix = guest.runTests, "cri vm", "-vm"
	}
	results := map[string]outcomes{}
	for _, name := range runtimes {
		results[name] = outcomes{}
		for _, part := range parts {
			file := filepath.Join(logs, "cri-"+name+"-"+part.name+suffix+".json")
			if strings.HasPrefix(name+"/"+part.name, c.only) {
				raw, runErr := run(ctx, program, name, part.flag)
				if len(raw) == 0 {
					return fmt.Errorf("the tests on %s said nothing: %w", name, runErr)
				}
				if err := os.WriteFile(file, raw, 0o600); err != nil {
					return err
				}
			}
		}
	}
	for _, name := range runtimes {
		for _, part := range parts {
			raw, err := os.ReadFile(filepath.Join(logs, "cri-"+name+"-"+part.name+suffix+".json"))
			if err != nil {
				return fmt.Errorf("no run of %s to take: %w", name, err)
			}
			maps.Copy(results[name], leaves(raw))
		}
	}
	text := render(table(results, areas), differences(results))
	fmt.Print(text)
	return insert(c.doc, mark, text)
}

// runTests returns the events of one run; failed tests are no error.
func runTests(ctx context.Context, program, name, part string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json", program, "-test.v=test2json", "-test.timeout=30m", part)
	cmd.Dir = "test/cri"
	cmd.Env = append(os.Environ(), "CRI_RUNTIME="+name, "CRITEST=1")
	cmd.Stderr = os.Stderr
	return cmd.Output()
}

// outcomes are pass, fail or skip by test.
type outcomes map[string]string

// leaves takes the tests without subtests out of the events.
func leaves(raw []byte) outcomes {
	all := outcomes{}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var event struct{ Action, Test string }
		if json.Unmarshal(lines.Bytes(), &event) != nil || event.Test == "" || strings.Contains(event.Test, "benchmark") {
			continue
		}
		switch event.Action {
		case "pass", "fail", "skip":
			all[event.Test] = event.Action
		}
	}
	for name := range maps.Clone(all) {
		for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
			delete(all, name[:i])
		}
	}
	return all
}

var (
	testFunction = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	// critest's own headings; a longer one stands before its beginning.
	headings = []string{
		"AppArmor", "Container_Mount_Propagation", "Container_Mount_Readonly", "Container_OOM", "Container", "Idempotence",
		"Image_Consistency", "Image_Identifier_Consistency", "Image_Manager", "Multiple_Containers", "Networking", "PodSandbox",
		"Runtime_info", "Security_Context", "SELinux", "Streaming",
	}
)

// areasOf maps every test to the file that holds it.
func areasOf(dir string) (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	areas := map[string]string{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for _, found := range testFunction.FindAllSubmatch(raw, -1) {
			areas[string(found[1])] = "test/cri: " + strings.TrimSuffix(filepath.Base(file), "_test.go")
		}
	}
	return areas, nil
}

func area(test string, areas map[string]string) string {
	top, rest, _ := strings.Cut(test, "/")
	if top != "TestCritest" {
		return areas[top]
	}
	for _, heading := range headings {
		if strings.HasPrefix(rest, heading) {
			return "critest: " + strings.ReplaceAll(heading, "_", " ")
		}
	}
	return "critest: other"
}

// count is passed and skipped of all.
type count struct{ passed, skipped, all int }

func (c count) String() string {
	out := fmt.Sprintf("%d/%d", c.passed, c.all)
	if c.skipped > 0 {
		out += fmt.Sprintf(", %d skipped", c.skipped)
	}
	return out
}

func table(results map[string]outcomes, areas map[string]string) map[string]map[string]count {
	rows := map[string]map[string]count{}
	for name, all := range results {
		for test, outcome := range all {
			suite, _, _ := strings.Cut(area(test, areas), ":")
			for _, row := range []string{area(test, areas), suite + ": **total**"} {
				if rows[row] == nil {
					rows[row] = map[string]count{}
				}
				c := rows[row][name]
				c.all++
				switch outcome {
				case "pass":
					c.passed++
				case "skip":
					c.skipped++
				}
				rows[row][name] = c
			}
		}
	}
	return rows
}

// differences lists what one of them fails or skips.
func differences(results map[string]outcomes) []string {
	names := map[string]bool{}
	for _, all := range results {
		for test := range all {
			names[test] = true
		}
	}
	var out []string
	for _, test := range slices.Sorted(maps.Keys(names)) {
		said := make([]string, len(runtimes))
		for i, name := range runtimes {
			said[i] = results[name][test]
		}
		if slices.Contains(said, "fail") || said[0] == "skip" && said[1] != "skip" {
			out = append(out, fmt.Sprintf("- `%s`: %s %s, %s %s", strings.TrimPrefix(test, "TestCritest/"), runtimes[0], word(said[0]), runtimes[1], word(said[1])))
		}
	}
	return out
}

func word(outcome string) string {
	if outcome == "" {
		return "didn't run"
	}
	return outcome
}

func render(rows map[string]map[string]count, differ []string) string {
	var out strings.Builder
	out.WriteString("| | mote-runtime | containerd |\n|---|---|---|\n")
	for _, row := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(&out, "| %s | %v | %v |\n", row, rows[row]["mote"], rows[row]["containerd"])
	}
	if len(differ) > 0 {
		out.WriteString("\nFailed by one of them, or skipped by mote-runtime alone:\n\n" + strings.Join(differ, "\n") + "\n")
	}
	return out.String()
}

func insert(path, mark, text string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+mark+" -->\n", "<!-- /"+mark+" -->"
	before, rest, found := strings.Cut(string(raw), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return fmt.Errorf("%s has no lines %q and %q: add them where the table shall be", path, strings.TrimSpace(begin), end)
	}
	return os.WriteFile(path, []byte(before+begin+text+end+after), 0o644)
}
