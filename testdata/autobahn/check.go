package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
)

// A verdict is the suite's finding about one case: how the peer behaved, and how it ended the connection.
type verdict struct{ Behavior, BehaviorClose string }

// ok reports whether the case passed strictly. INFORMATIONAL is the verdict where the RFC leaves the behaviour open,
// UNIMPLEMENTED where a case needs an extension that was not agreed on.
func (v verdict) ok() bool {
	switch v.Behavior {
	case "OK", "INFORMATIONAL", "UNIMPLEMENTED":
		return v.BehaviorClose == "OK" || v.BehaviorClose == "INFORMATIONAL"
	}
	return false
}

// check prints the verdicts of a report and returns an error unless each agent has passed the same cases, all of them
// strictly.
func check(path string, out io.Writer) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var report map[string]map[string]verdict // by agent and case
	if err := json.Unmarshal(b, &report); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	bad, most := 0, 0
	for _, cases := range report {
		most = max(most, len(cases))
	}
	for _, a := range agents() {
		counts := make(map[verdict]int)
		for _, name := range slices.Sorted(maps.Keys(report[a.name])) {
			v := report[a.name][name]
			counts[v]++
			if !v.ok() {
				bad++
				fmt.Fprintf(out, "%s: case %s: %s, close %s\n", a.name, name, v.Behavior, v.BehaviorClose)
			}
		}
		fmt.Fprintf(out, "%s: %d cases:", a.name, len(report[a.name]))
		for v, n := range counts {
			fmt.Fprintf(out, " %d %s (close %s)", n, v.Behavior, v.BehaviorClose)
		}
		fmt.Fprintln(out)
		bad += most - len(report[a.name])
	}
	switch {
	case most == 0:
		return errors.New("the report has no cases")
	case bad > 0:
		return fmt.Errorf("%d cases failed or are missing", bad)
	}
	return nil
}
