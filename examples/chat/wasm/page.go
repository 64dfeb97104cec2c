//go:build js

package main

import (
	"cmp"
	"context"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall/js"
	"time"

	"example.com/websocket"
)

// A guest holds the values of the form.
type guest struct{ name, room string }

// A page is the document and the user's actions in it. JavaScript calls its handlers, which must not block.
type page struct {
	window, document js.Value
	joined           chan guest
	said             chan string
	leave            func() // ends the visit
}

func newPage() *page {
	p := &page{
		window:   js.Global(),
		document: js.Global().Get("document"),
		joined:   make(chan guest, 1),
		said:     make(chan string, 1),
	}
	p.on("join", "submit", func(e js.Value) {
		e.Call("preventDefault")
		name, room := p.value("name"), p.value("room")
		if name != "" && room != "" {
			offer(p.joined, guest{name, room})
		}
	})
	p.on("compose", "submit", func(e js.Value) {
		e.Call("preventDefault")
		text := p.value("text")
		if text != "" && !p.get("send").Get("disabled").Bool() && offer(p.said, text) {
			p.get("text").Set("value", "")
		}
	})
	p.on("text", "keydown", func(e js.Value) {
		if e.Get("key").String() == "Enter" && !e.Get("shiftKey").Bool() && !e.Get("isComposing").Bool() {
			e.Call("preventDefault")
			p.get("compose").Call("requestSubmit")
		}
	})
	p.on("leave", "click", func(js.Value) { p.leave() })
	fragment, _ := url.ParseQuery(strings.TrimPrefix(p.window.Get("location").Get("hash").String(), "#"))
	p.get("room").Set("value", cmp.Or(fragment.Get("room"), "lobby"))
	return p
}

// offer sends v unless the channel is full.
func offer[T any](c chan<- T, v T) bool {
	select {
	case c <- v:
		return true
	default:
		return false
	}
}

func (p *page) get(id string) js.Value { return p.document.Call("getElementById", id) }

// value returns the text that the user has typed, without surrounding spaces, as the server counts it.
func (p *page) value(id string) string { return strings.TrimSpace(p.get(id).Get("value").String()) }

func (p *page) on(id, name string, handle func(event js.Value)) {
	p.get(id).Call("addEventListener", name, js.FuncOf(func(_ js.Value, args []js.Value) any {
		handle(args[0])
		return nil
	}))
}

// server returns the WebSocket URL of the page's server.
func (p *page) server() string {
	return strings.Replace(p.window.Get("location").Get("origin").String(), "http", "ws", 1)
}

// send sends the user's messages until the connection ends.
func (p *page) send(c *websocket.Conn) {
	ended := c.Context().Done()
	for {
		select {
		case text := <-p.said:
			if c.Write(context.Background(), websocket.TextMessage, []byte(text)) != nil {
				return // the reader gets the error too
			}
		case <-ended:
			return
		}
	}
}

// Rendering. All text comes from strangers, so it is only ever set as textContent.

func (p *page) showForm(refusal string) {
	p.get("chat").Set("hidden", true)
	p.get("join").Set("hidden", false)
	p.get("refusal").Set("textContent", refusal)
	p.get("name").Call("focus")
}

func (p *page) showRoom(name string) {
	p.get("log").Call("replaceChildren")
	p.get("people").Call("replaceChildren")
	p.get("title").Set("textContent", name)
	p.get("join").Set("hidden", true)
	p.get("chat").Set("hidden", false)
	p.get("text").Call("focus")
}

func (p *page) status(text string, connected bool) {
	status := p.get("status")
	status.Set("textContent", text)
	status.Get("dataset").Set("state", map[bool]string{true: "on", false: "off"}[connected])
	p.get("send").Set("disabled", !connected)
}

func (p *page) element(tag, class, text string) js.Value {
	e := p.document.Call("createElement", tag)
	e.Set("className", class)
	e.Set("textContent", text)
	return e
}

// paint gives an element the color of a name.
func paint(e js.Value, name string) {
	hue := 0
	for _, r := range name {
		hue = (hue*31 + int(r)) % 360
	}
	e.Get("style").Call("setProperty", "--hue", hue)
}

func (p *page) showPeople(people map[string]string, mine map[string]bool) {
	ids := slices.SortedFunc(maps.Keys(people), func(a, b string) int {
		return cmp.Or(cmp.Compare(people[a], people[b]), cmp.Compare(a, b))
	})
	list := p.get("people")
	list.Call("replaceChildren")
	for _, id := range ids {
		text := people[id]
		if mine[id] {
			text += " (you)"
		}
		item := p.element("li", "", text)
		paint(item, people[id])
		list.Call("append", item)
	}
	p.get("here").Set("textContent", "Here now: "+strconv.Itoa(len(people)))
}

func (p *page) showMessage(e event, mine bool) {
	class := "theirs"
	if mine {
		class = "mine"
	}
	item, head := p.element("li", class, ""), p.element("p", "head", "")
	at := p.element("time", "", time.UnixMilli(e.Time).Format("15:04"))
	head.Call("append", p.element("b", "", e.From.Name), " ", at)
	item.Call("append", head, p.element("p", "body", e.Text))
	paint(item, e.From.Name)
	p.show(item)
}

func (p *page) note(text string) { p.show(p.element("li", "note", text)) }

// show appends to the log and keeps the end of the log in view.
func (p *page) show(item js.Value) {
	log := p.get("log")
	log.Call("append", item)
	if log.Get("children").Length() > 500 {
		log.Get("firstElementChild").Call("remove")
	}
	log.Set("scrollTop", log.Get("scrollHeight"))
}
