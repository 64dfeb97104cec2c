package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// A bench measures cells one after the other. Within a cell, the libraries take turns, slice by slice: A B C, C B A.
type bench struct {
	libs   []library
	slice  time.Duration
	rounds int // each is two passes, forward and backward
	idle   int // connections of the idle scenario
	log    io.Writer
	report *report
}

// A subject is one library prepared for one cell.
type subject struct {
	name  string
	slice func(d time.Duration) (sample, error)
	close func()
	wire  func() float64 // bytes on the wire per byte of payload; nil if not measured
}

// A sample is one slice of one subject.
type sample struct {
	Messages int64
	Wall     time.Duration
	Usage    usage
	trips    []time.Duration
}

// cell measures the subjects and records the result.
func (b *bench) cell(scenario, name string, unit string, subjects []*subject) error {
	fmt.Fprintf(b.log, "%s: %s\n", scenario, name)
	defer func() {
		for _, s := range subjects {
			s.close()
		}
	}()
	samples := make([][]sample, len(subjects))
	for _, s := range subjects {
		if _, err := s.slice(b.slice / 5); err != nil {
			return fmt.Errorf("%s, %s, %s: warming up: %w", scenario, name, s.name, err)
		}
	}
	for pass := range 2 * b.rounds {
		for _, i := range order(len(subjects), pass) {
			m, err := subjects[i].slice(b.slice)
			if err != nil {
				return fmt.Errorf("%s, %s, %s: %w", scenario, name, subjects[i].name, err)
			}
			samples[i] = append(samples[i], m)
		}
	}
	b.report.add(scenario, name, unit, subjects, samples)
	return nil
}

// order reverses with each pass and starts with another library in each round, so that no library always follows the
// same one.
func order(n, pass int) []int {
	o := make([]int, n)
	for i := range o {
		o[i] = (i + pass/2) % n
	}
	if pass%2 == 1 {
		slices.Reverse(o)
	}
	return o
}

// spawnAll starts a process for each library that can do the scenario.
func (b *bench) spawnAll(can func(library) bool) ([]*child, func(), error) {
	var cs []*child
	end := func() {
		for _, c := range cs {
			c.close()
		}
	}
	for _, l := range b.libs {
		if can != nil && !can(l) {
			continue
		}
		c, err := spawn(l)
		if err != nil {
			end()
			return nil, nil, err
		}
		cs = append(cs, c)
	}
	return cs, end, nil
}

// each builds one subject per child; those built are closed if one fails.
func each(cs []*child, build func(c *child) (*subject, error)) ([]*subject, error) {
	var subjects []*subject
	for _, c := range cs {
		s, err := build(c)
		if err != nil {
			for _, s := range subjects {
				s.close()
			}
			return nil, fmt.Errorf("%s: %w", c.lib.name, err)
		}
		subjects = append(subjects, s)
	}
	return subjects, nil
}

// outside measures the load's effect on the child: its usage before and after.
func outside(c *child, f func(d time.Duration) (int64, []time.Duration, error)) func(time.Duration) (sample, error) {
	return func(d time.Duration) (sample, error) {
		before, err := c.usage()
		if err != nil {
			return sample{}, err
		}
		start := time.Now()
		n, trips, err := f(d)
		wall := time.Since(start)
		if err != nil {
			return sample{}, err
		}
		after, err := c.usage()
		return sample{n, wall, after.minus(before), trips}, err
	}
}

// inside measures an operation that the child performs on request.
func inside(c *child, q request) func(time.Duration) (sample, error) {
	return func(d time.Duration) (sample, error) {
		q.Duration = d
		start := time.Now()
		r, err := c.call(q)
		return sample{Messages: r.Count, Wall: time.Since(start), Usage: r.Usage}, err
	}
}

// exchanges is the subject of a fleet that repeats x against a server of the child.
func exchanges(c *child, mode string, o options, conns, bufSize int, x exchange, check func(fleet) error) (*subject, error) {
	addr, err := c.listen(mode, o)
	if err != nil {
		return nil, err
	}
	f, err := dialFleet(addr, o, conns, bufSize)
	if err != nil {
		return nil, err
	}
	if err := check(f); err != nil {
		f.drop()
		return nil, err
	}
	run := func(d time.Duration) (int64, []time.Duration, error) { return f.run(x, d) }
	return &subject{name: label(c.lib.name, o), slice: outside(c, run), close: f.drop}, nil
}
