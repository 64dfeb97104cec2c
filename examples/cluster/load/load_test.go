package main

import (
	"strings"
	"testing"
	"time"
)

// A small run works like a large one: it builds and kills the same programs and makes the same checks.
func TestMeasure_FindsNothingWrong(t *testing.T) {
	var out strings.Builder
	err := measure(t.Context(), &out, settings{
		clients: 30, rooms: 3, rate: 5, length: time.Second, failRate: 2, failLength: 4 * time.Second,
	})
	if err != nil || !strings.Contains(out.String(), "checked by sequence numbers") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestCheck_FindsWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		heard []heard
		wrong bool
	}{
		"right":            {[]heard{{0, 5}, {2, 7}, {1, 9}}, false},
		"lost":             {[]heard{{0, 5}, {2, 7}}, true},
		"twice":            {[]heard{{0, 5}, {2, 7}, {1, 9}, {1, 9}}, true},
		"out of order":     {[]heard{{0, 5}, {1, 9}, {2, 7}}, true},
		"another sequence": {[]heard{{0, 5}, {2, 7}, {1, 10}}, true},
	} {
		r := newRun(2, 1)
		r.rooms[0].sent = make([]message, 3)
		r.members[0].heard = []heard{{0, 5}, {2, 7}, {1, 9}}
		r.members[1].heard = c.heard
		if err := r.check(); (err != nil) != c.wrong {
			t.Errorf("%s: %v", name, err)
		}
	}
}
