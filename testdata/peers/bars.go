package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// A bar is what this package set out to reach in a cell.
type bar struct {
	scenario, cell string // cell: a part of its name
	against        string // the best of these; "": of all others
	ratio          float64
	calls          float64 // reads and writes a message; 0: no bar
	writes         float64
	allocs         float64 // a message; negative: no bar
}

var bars = []bar{
	{"pipeline", "128 in flight", "", 0.15, 0.06, 0, -1},
	{"pipeline", "16 in flight", "", 0.35, 0.5, 0, -1},
	{"echo", " B", "", 1.03, 0, 0, 0},
	{"echo", ", 1 KiB", "", 1.03, 0, 0, 0},
	{"echo", ", 16 KiB", "", 0.95, 0, 0, 0.1},
	{"echo", ", 128 KiB", "", 0.95, 0, 0, 0.1},
	{"echo", ", 1 MiB", "", 0.95, 0, 0, 0.1},
	{"ingest", "", "", 1, 0, 0, -1},
	{"fragments", "", "", 1, 0, 0, -1},
	{"text", "Chinese", "", 0.5, 0, 0, -1},
	{"text", "emoji", "", 0.5, 0, 0, -1},
	{"writers", "", "", 0.25, 0, 0.2, -1},
	{"broadcast", "", "gorilla gws", 1, 0, 0, -1},
	{"client", "", "", 1, 0, 0, -1},
	{"handshake", "", "gorilla", 1, 0, 0, -1},
	{"memory", "", "gobwas", 1, 0, 0, 0},
}

// idleBars are bytes per connection.
var idleBars = map[string]float64{"plain": 4.2 * 1024, "TLS": 16 * 1024}

// allocsNoise is what the measurement itself allocates, spread over the messages of a slice.
const allocsNoise = 0.02

func verdict(what string, value, limit float64) string {
	word := "met"
	if value > limit {
		word = "missed"
	}
	return fmt.Sprintf("bar %s: %s at most %.3g, measured %.3g", word, what, limit, value)
}

// verdicts judge our row, if there is one, by the first bar that fits.
func (res result) verdicts() []string {
	me, best := -1, -1
	for _, b := range bars {
		if b.scenario != res.Scenario || !strings.Contains(res.Cell, b.cell) {
			continue
		}
		low := math.Inf(1)
		for i, r := range res.Rows {
			switch {
			case r.Library == ours.name:
				me = i
			case b.against != "" && !slices.Contains(strings.Fields(b.against), r.Library):
			case r.CPU.Median < low:
				low, best = r.CPU.Median, i
			}
		}
		if me < 0 || best < 0 {
			return nil
		}
		return b.judge(res.Rows[me], res.Rows[best])
	}
	return nil
}

func (b bar) judge(me, best row) []string {
	v := []string{verdict("CPU over "+best.Library+"'s", best.Ours.Median, b.ratio)}
	if b.calls > 0 {
		v = append(v, verdict("reads and writes a message", me.Reads+me.Writes, b.calls))
	}
	if b.writes > 0 {
		v = append(v, verdict("writes a message", me.Writes, b.writes))
	}
	if b.allocs >= 0 {
		v = append(v, verdict("allocations a message", me.Allocs, max(b.allocs, allocsNoise)))
	}
	return v
}

func idleVerdict(r idleRow) []string {
	return []string{verdict("bytes a connection", r.Runtime, idleBars[r.Kind])}
}
