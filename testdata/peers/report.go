package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// A report holds the results of a run.
type report struct {
	Date    string
	CPU     string
	Cores   int
	Go      string
	Modules map[string]string // versions of the libraries
	Command string
	Results []result
	Idle    []idleRow
}

type result struct {
	Scenario, Cell, Unit string
	Base                 string // the library that the others are compared with: the first of -libs
	Rows                 []row
}

// A row holds the figures of one library in one cell.
type row struct {
	Library  string
	CPU      spread  // of the process under test, nanoseconds a message
	Ours     spread  // the CPU of the result's Base over this library's, in neighboring slices
	Rate     float64 // messages a second
	Allocs   float64 // a message
	Reads    float64 // system calls a message
	Writes   float64
	P50, P99 time.Duration // round trip; 0 if not measured
	Wire     float64       // bytes on the wire per byte of payload; 0 if not measured
}

type spread struct{ Median, Min, Max float64 }

type idleRow struct {
	Kind, When, Library string
	perConn
}

func newReport() *report {
	r := &report{
		Date: time.Now().UTC().Format("2006-01-02"), CPU: cpuModel(), Cores: runtime.NumCPU(), Go: runtime.Version(),
		Modules: make(map[string]string), Command: "go run . " + strings.Join(os.Args[1:], " "),
	}
	info, _ := debug.ReadBuildInfo()
	for _, l := range libraries {
		for _, m := range info.Deps {
			if m.Path == l.module {
				r.Modules[m.Path] = m.Version
			}
		}
	}
	return r
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func spreadOf(v []float64) spread {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n == 0 {
		return spread{}
	}
	return spread{(s[(n-1)/2] + s[n/2]) / 2, s[0], s[n-1]}
}

// add adds a cell. samples[i][pass] is the sample of subjects[i] in that pass.
func (r *report) add(scenario, cell, unit string, subjects []*subject, samples [][]sample) {
	res := result{Scenario: scenario, Cell: cell, Unit: unit}
	if len(subjects) > 0 {
		res.Base = subjects[0].name
	}
	for i, s := range subjects {
		row := rowOf(s.name, samples[i])
		if s.wire != nil && scenario == "compression" {
			row.Wire = s.wire()
		}
		row.Ours = ratios(samples[0], samples[i])
		res.Rows = append(res.Rows, row)
	}
	r.Results = append(r.Results, res)
}

func (s sample) cpu() float64 { return float64(s.Usage.CPU) / float64(max(1, s.Messages)) }

func ratios(mine, other []sample) spread {
	var v []float64
	for pass := range mine {
		v = append(v, mine[pass].cpu()/other[pass].cpu())
	}
	return spreadOf(v)
}

func rowOf(name string, samples []sample) row {
	var cpu, rate []float64
	var sum usage
	var trips []time.Duration
	n := 0.0
	for _, s := range samples {
		cpu = append(cpu, s.cpu())
		rate = append(rate, float64(s.Messages)/s.Wall.Seconds())
		n += float64(s.Messages)
		sum.Mallocs += s.Usage.Mallocs
		sum.Reads += s.Usage.Reads
		sum.Writes += s.Usage.Writes
		trips = append(trips, s.trips...)
	}
	row := row{Library: name, CPU: spreadOf(cpu), Rate: spreadOf(rate).Median}
	row.Allocs, row.Reads, row.Writes = float64(sum.Mallocs)/n, float64(sum.Reads)/n, float64(sum.Writes)/n
	if k := len(trips); k > 0 {
		slices.Sort(trips)
		row.P50, row.P99 = trips[k/2], trips[k*99/100]
	}
	return row
}

func (r *report) hold(kind, when, lib string, p perConn) {
	r.Idle = append(r.Idle, idleRow{kind, when, lib, p})
}

// A table is rendered as text or as Markdown.
type table struct {
	title string
	rows  [][]string // the first is the head
}

func (t table) text(w io.Writer) {
	widths := make([]int, len(t.rows[0]))
	for _, r := range t.rows {
		for i, c := range r {
			widths[i] = max(widths[i], len([]rune(c)))
		}
	}
	fmt.Fprintf(w, "\n%s\n", t.title)
	for _, r := range t.rows {
		for i, c := range r {
			pad := strings.Repeat(" ", widths[i]-len([]rune(c)))
			if i == 0 {
				fmt.Fprintf(w, "  %s%s", c, pad)
			} else {
				fmt.Fprintf(w, "  %s%s", pad, c)
			}
		}
		fmt.Fprintln(w)
	}
}

func (t table) markdown(w io.Writer) {
	fmt.Fprintf(w, "\n### %s\n\n", t.title)
	for i, r := range t.rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(r, " | "))
		if i == 0 {
			fmt.Fprintf(w, "|---%s\n", strings.Repeat("|---:", len(r)-1)+"|")
		}
	}
}

func (r *report) tables() []table {
	var ts []table
	for _, res := range r.Results {
		ts = append(ts, res.table())
	}
	return append(ts, r.idleTables()...)
}

func (res result) table() table {
	has := func(f func(row) bool) bool { return slices.ContainsFunc(res.Rows, f) }
	trips := has(func(r row) bool { return r.P50 > 0 })
	wire := has(func(r row) bool { return r.Wire > 0 })
	ratio := has(func(r row) bool { return r.Ours.Median > 0 })
	head := []string{"library", "CPU µs/" + res.Unit, "(spread)", "rate/s", "allocs", "reads", "writes"}
	if trips {
		head = append(head, "p50 µs", "p99 µs")
	}
	if wire {
		head = append(head, "size ratio")
	}
	if ratio {
		head = append(head, res.Base+" ÷ this", "(spread)")
	}
	t := table{title: res.Scenario + ": " + res.Cell, rows: [][]string{head}}
	for _, r := range res.Rows {
		c := []string{
			r.Library, micros(r.CPU.Median), micros(r.CPU.Min) + "–" + micros(r.CPU.Max), fmt.Sprintf("%.0f", r.Rate),
			fmt.Sprintf("%.2f", r.Allocs), fmt.Sprintf("%.3f", r.Reads), fmt.Sprintf("%.3f", r.Writes),
		}
		if trips {
			c = append(c, micros(float64(r.P50)), micros(float64(r.P99)))
		}
		if wire {
			c = append(c, fmt.Sprintf("%.3f", r.Wire))
		}
		if ratio {
			c = append(c, fmt.Sprintf("%.2f", r.Ours.Median), fmt.Sprintf("%.2f–%.2f", r.Ours.Min, r.Ours.Max))
		}
		t.rows = append(t.rows, c)
	}
	return t
}

func micros(ns float64) string {
	switch us := ns / 1000; {
	case us >= 100:
		return fmt.Sprintf("%.0f", us)
	case us >= 10:
		return fmt.Sprintf("%.1f", us)
	case us >= 1:
		return fmt.Sprintf("%.2f", us)
	default:
		return fmt.Sprintf("%.3f", us)
	}
}

func (r *report) idleTables() []table {
	var ts []table
	for _, row := range r.Idle {
		title := "idle: " + row.Kind + ", " + row.When
		if len(ts) == 0 || !slices.ContainsFunc(ts, func(t table) bool { return t.title == title }) {
			head := []string{"library", "bytes/connection", "live heap", "stacks", "RSS", "goroutines"}
			ts = append(ts, table{title: title, rows: [][]string{head}})
		}
		t := &ts[slices.IndexFunc(ts, func(t table) bool { return t.title == title })]
		f := func(v float64) string { return fmt.Sprintf("%.0f", v) }
		t.rows = append(t.rows, []string{row.Library, f(row.Runtime), f(row.Heap), f(row.Stack), f(row.RSS), fmt.Sprintf("%.2f", row.Goroutines)})
	}
	return ts
}

func (r *report) header() []string {
	lines := []string{fmt.Sprintf("%s, %s, %d cores, %s, `%s`", r.Date, r.CPU, r.Cores, r.Go, r.Command)}
	for _, l := range libraries {
		if v, ok := r.Modules[l.module]; ok {
			lines = append(lines, fmt.Sprintf("%s: %s %s; %s", l.name, l.module, v, l.style))
		}
	}
	return append(lines,
		"CPU: user and system time of the process under test. reads, writes: its system calls, per message. bytes/connection: memory of the Go runtime, less what it gave back.")
}

func (r *report) text(w io.Writer) {
	fmt.Fprintln(w, strings.Join(r.header(), "\n"))
	for _, t := range r.tables() {
		t.text(w)
	}
}

func (r *report) markdown(w io.Writer) {
	fmt.Fprintf(w, "# Comparison with other libraries\n\n- %s\n", strings.Join(r.header(), "\n- "))
	for _, t := range r.tables() {
		t.markdown(w)
	}
}

// save writes the report and its charts into a directory.
func (r *report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var md strings.Builder
	r.markdown(&md)
	files := map[string]string{"bench.md": md.String()}
	for name, svg := range r.charts() {
		files[name] = svg
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
