package main

import (
	"fmt"
	"net/http"
	"time"

	"example.com/websocket"
)

// A metric is a number about the chat, for Prometheus and for expvar.
type metric struct {
	name, kind, help string // kind is counter or gauge
	value            float64
}

// metrics returns the state of the hub. The counters include connections that have ended, so they never decrease.
func (h *hub) metrics() []metric {
	h.mu.Lock()
	joined, refused, rooms := h.joined, h.refused, len(h.rooms)
	sum, slowest := h.past, time.Duration(0)
	for _, rm := range h.rooms {
		for c := range rm.people {
			st := c.Stats()
			sum = add(sum, st)
			sum.Pending += st.Pending
			slowest = max(slowest, st.RTT)
		}
	}
	h.mu.Unlock()
	return []metric{
		{"chat_connections", "gauge", "Open connections.", float64(h.everyone.Len())},
		{"chat_rooms", "gauge", "Rooms with somebody in them.", float64(rooms)},
		{"chat_pending_bytes", "gauge", "Bytes waiting to be sent, over all connections.", float64(sum.Pending)},
		{"chat_slowest_ping_seconds", "gauge", "Longest round trip among the last pings of all connections.", slowest.Seconds()},
		{"chat_joined_total", "counter", "Connections that entered a room.", float64(joined)},
		{"chat_refused_total", "counter", "Connections closed for their name or room.", float64(refused)},
		{"chat_messages_read_total", "counter", "Messages received.", float64(sum.MessagesRead)},
		{"chat_messages_written_total", "counter", "Messages sent.", float64(sum.MessagesWritten)},
		{"chat_bytes_read_total", "counter", "Bytes received, frame headers included.", float64(sum.BytesRead)},
		{"chat_bytes_written_total", "counter", "Bytes sent, frame headers included.", float64(sum.BytesWritten)},
	}
}

// add returns the sum of the counters; Pending and RTT stay those of a.
func add(a, b websocket.Stats) websocket.Stats {
	a.MessagesRead += b.MessagesRead
	a.MessagesWritten += b.MessagesWritten
	a.BytesRead += b.BytesRead
	a.BytesWritten += b.BytesWritten
	return a
}

// servePrometheus writes the metrics in the text format of Prometheus, version 0.0.4.
func (h *hub) servePrometheus(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	for _, m := range h.metrics() {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %[1]s %[3]s\n%[1]s %[4]v\n", m.name, m.help, m.kind, m.value)
	}
}

// vars returns the metrics for expvar.
func (h *hub) vars() any {
	vars := make(map[string]float64)
	for _, m := range h.metrics() {
		vars[m.name] = m.value
	}
	return vars
}
