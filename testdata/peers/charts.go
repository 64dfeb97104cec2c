package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// Charts are SVG, written as text. They have a light background of their own, so that they are readable in
// either theme.

var palette = map[string]string{
	"ours": "#d6336c", "gorilla": "#1c7ed6", "coder": "#2f9e44", "gws": "#e8890c", "gobwas": "#7048e8", "nbio": "#0c8599", "nbio-poller": "#74838f",
	"ours-events": "#d6336c", "gobwas-poller": "#7048e8",
}

func colour(library string) string {
	name, _, _ := strings.Cut(library, " ")
	if c, ok := palette[name]; ok {
		return c
	}
	return "#495057"
}

// A canvas collects elements.
type canvas struct {
	strings.Builder
	w, h float64
}

func newCanvas(w, h float64, title, subtitle string) *canvas {
	c := &canvas{w: w, h: h}
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="%s">`+"\n",
		w, h, w, h, html.EscapeString(title))
	fmt.Fprintf(c, `<rect width="%g" height="%g" rx="8" fill="#fff" stroke="#dee2e6"/>`+"\n", w, h)
	c.text(24, 30, "start", "#212529", `font-size="16" font-weight="600"`, title)
	c.text(24, 48, "start", "#868e96", "", subtitle)
	return c
}

func (c *canvas) text(x, y float64, anchor, fill, attrs, s string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s" %s>%s</text>`+"\n", x, y, anchor, fill, attrs, html.EscapeString(s))
}

func (c *canvas) line(x1, y1, x2, y2 float64, stroke string) {
	fmt.Fprintf(c, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, stroke)
}

func (c *canvas) dot(x, y, r float64, fill string) {
	fmt.Fprintf(c, `<circle cx="%.1f" cy="%.1f" r="%g" fill="%s"/>`+"\n", x, y, r, fill)
}

func (c *canvas) end() string { return c.String() + "</svg>\n" }

// A scale maps values to pixels.
type scale struct {
	lo, hi, from, to float64
	log              bool
}

func (s scale) at(v float64) float64 {
	lo, hi := s.lo, s.hi
	if s.log {
		lo, hi, v = math.Log(lo), math.Log(hi), math.Log(v)
	}
	return s.from + (v-lo)/(hi-lo)*(s.to-s.from)
}

func (r *report) charts() map[string]string {
	svgs := make(map[string]string)
	put := func(name, svg string) {
		if svg != "" {
			svgs[name] = svg
		}
	}
	put("cpu-by-size.svg", r.sizeChart())
	put("idle-memory.svg", r.idleChart())
	put("compression.svg", r.compressionChart())
	return svgs
}

func (r *report) subtitle(what string) string {
	return fmt.Sprintf("%s · %s, %d cores, %s, %s", what, r.CPU, r.Cores, r.Go, r.Date)
}

// sizeCells are the echo cells of the chart, one for each size.
var sizeCells = []struct {
	cell string
	size float64
}{
	{"64 connections, 16 B", 16}, {"64 connections, 128 B", 128}, {"64 connections, 1 KiB", 1 << 10},
	{"16 connections, 16 KiB", 16 << 10}, {"16 connections, 128 KiB", 128 << 10}, {"4 connections, 1 MiB", 1 << 20},
}

type point struct{ x, y float64 }

type series struct {
	name   string
	points []point
}

func (r *report) sizeSeries() []series {
	var all []series
	for _, sc := range sizeCells {
		i := slices.IndexFunc(r.Results, func(res result) bool { return res.Scenario == "echo" && res.Cell == sc.cell })
		if i < 0 {
			return nil
		}
		for _, row := range r.Results[i].Rows {
			k := slices.IndexFunc(all, func(s series) bool { return s.name == row.Library })
			if k < 0 {
				all, k = append(all, series{name: row.Library}), len(all)
			}
			all[k].points = append(all[k].points, point{sc.size, row.CPU.Median / 1000})
		}
	}
	return all
}

func (r *report) sizeChart() string {
	all := r.sizeSeries()
	if len(all) == 0 {
		return ""
	}
	lo, hi := math.Inf(1), 0.0
	for _, s := range all {
		for _, p := range s.points {
			lo, hi = min(lo, p.y), max(hi, p.y)
		}
	}
	c := newCanvas(760, 440, "CPU per echoed message, by size", r.subtitle("µs of the server's process, lower is better, both axes logarithmic"))
	x := scale{16, 1 << 20, 64, 630, true}
	y := scale{lo * 0.8, hi * 1.2, 400, 70, true}
	for decade := 0.1; decade < 1e6; decade *= 10 {
		for _, v := range []float64{decade, 3 * decade} {
			if v > y.lo && v < y.hi {
				c.line(x.from, y.at(v), x.to, y.at(v), "#e9ecef")
				c.text(x.from-8, y.at(v)+4, "end", "#868e96", "", fmt.Sprintf("%g µs", v))
			}
		}
	}
	for _, sc := range sizeCells {
		c.text(x.at(sc.size), 420, "middle", "#868e96", "", sizeName(int(sc.size)))
	}
	labels := make([]placed, 0, len(all))
	for _, s := range all {
		c.polyline(s, x, y)
		last := s.points[len(s.points)-1]
		labels = append(labels, placed{s.name, y.at(last.y)})
	}
	for _, l := range spreadOut(labels, 15) {
		c.text(x.to+10, l.y+4, "start", colour(l.name), "", l.name)
	}
	return c.end()
}

func (c *canvas) polyline(s series, x, y scale) {
	width := 1.5
	if s.name == ours.name {
		width = 3
	}
	var pts []string
	for _, p := range s.points {
		pts = append(pts, fmt.Sprintf("%.1f,%.1f", x.at(p.x), y.at(p.y)))
		c.dot(x.at(p.x), y.at(p.y), width+1, colour(s.name))
	}
	fmt.Fprintf(c, `<polyline points="%s" fill="none" stroke="%s" stroke-width="%g"/>`+"\n", strings.Join(pts, " "), colour(s.name), width)
}

type placed struct {
	name string
	y    float64
}

// spreadOut moves labels apart until none is closer than gap to the next.
func spreadOut(ls []placed, gap float64) []placed {
	slices.SortFunc(ls, func(a, b placed) int {
		switch {
		case a.y < b.y:
			return -1
		case a.y > b.y:
			return 1
		}
		return 0
	})
	for range 50 {
		for i := 1; i < len(ls); i++ {
			if d := gap - (ls[i].y - ls[i-1].y); d > 0 {
				ls[i-1].y -= d / 2
				ls[i].y += d / 2
			}
		}
	}
	return ls
}

func (r *report) idleChart() string {
	var rows []idleRow
	for _, kind := range []string{"plain", "TLS"} {
		for _, row := range r.Idle {
			if row.Kind == kind && row.When == "after an echo of 64 B" {
				rows = append(rows, row)
			}
		}
	}
	if len(rows) == 0 {
		return ""
	}
	most := 0.0
	for _, row := range rows {
		most = max(most, row.Runtime)
	}
	h := 90 + 24*float64(len(rows)) + 40
	c := newCanvas(760, h, "Memory per idle connection", r.subtitle("KiB of the server's process, lower is better"))
	x := scale{0, most, 120, 660, false}
	at, kind := 70.0, ""
	for _, row := range rows {
		if row.Kind != kind {
			kind = row.Kind
			c.text(24, at+15, "start", "#212529", `font-weight="600"`, map[string]string{"plain": "plain TCP", "TLS": "TLS"}[kind])
			at += 24
		}
		end := x.at(max(0, row.Runtime))
		fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="%.1f" height="17" rx="2" fill="%s"/>`+"\n", x.from, at, end-x.from, colour(row.Library))
		c.text(x.from-8, at+13, "end", "#495057", "", row.Library)
		c.text(end+6, at+13, "start", "#495057", "", fmt.Sprintf("%.1f", row.Runtime/1024))
		at += 24
	}
	return c.end()
}

func (r *report) compressionChart() string {
	i := slices.IndexFunc(r.Results, func(res result) bool {
		return res.Scenario == "compression" && res.Cell == "send JSON of 4 KiB"
	})
	if i < 0 {
		return ""
	}
	rows := r.Results[i].Rows
	var mostX, mostY float64
	lowX := 1.0
	for _, row := range rows {
		lowX, mostX, mostY = min(lowX, row.Wire), max(mostX, row.Wire), max(mostY, row.CPU.Median/1000)
	}
	c := newCanvas(760, 440, "Compression: time against size", r.subtitle("JSON of 4 KiB; towards the lower left is better"))
	x := scale{lowX * 0.9, mostX * 1.1, 64, 600, false}
	y := scale{0, mostY * 1.1, 390, 70, false}
	for k := range 6 {
		v := mostY * float64(k) / 5
		c.line(x.from, y.at(v), x.to, y.at(v), "#e9ecef")
		c.text(x.from-8, y.at(v)+4, "end", "#868e96", "", fmt.Sprintf("%.0f µs", v))
		s := x.lo + (x.hi-x.lo)*float64(k)/5
		c.text(x.at(s), 410, "middle", "#868e96", "", fmt.Sprintf("%.0f %%", 100*s))
	}
	c.text((x.from+x.to)/2, 428, "middle", "#868e96", "", "size on the wire")
	labels := make([]placed, 0, len(rows))
	for _, row := range rows {
		c.dot(x.at(row.Wire), y.at(row.CPU.Median/1000), 5, colour(row.Library))
		labels = append(labels, placed{row.Library, y.at(row.CPU.Median / 1000)})
	}
	for _, l := range spreadOut(labels, 15) {
		k := slices.IndexFunc(rows, func(r row) bool { return r.Library == l.name })
		c.line(x.at(rows[k].Wire)+6, y.at(rows[k].CPU.Median/1000), 612, l.y, "#dee2e6")
		c.text(616, l.y+4, "start", colour(l.name), "", l.name)
	}
	return c.end()
}
