package interop

import (
	"strings"
	"testing"
)

// holds reports whether a condition holds in the page now.
func (p *tab) holds(condition string) bool {
	p.t.Helper()
	var ok bool
	p.eval(`!!(`+condition+`)`, &ok)
	return ok
}

// expect fails the test unless the condition holds now.
func (p *tab) expect(condition string) {
	p.t.Helper()
	if !p.holds(condition) {
		var says string
		p.eval(`document.title + "\n" + document.body.innerText`, &says)
		p.t.Errorf("%s does not hold; the page says: %s", condition, says)
	}
}

func (p *tab) click(id string) {
	p.t.Helper()
	p.eval(`document.getElementById(`+quote(id)+`).click()`, nil)
}

func (p *tab) inRoom(name string) {
	p.t.Helper()
	p.until(`!document.getElementById("chat").hidden && document.getElementById("title").textContent === ` + quote(name))
	p.connected()
}

const formIsShown = `!document.getElementById("join").hidden && document.getElementById("chat").hidden`

func TestChatPage_ShowsTheReason_WhenTheServerRefusesAName(t *testing.T) {
	b := startBrowser(t)
	server := startChat(t, buildChat(t), "127.0.0.1:0")
	for _, c := range []struct{ name, room, says string }{
		{"A\u202eB", "lobby", "U+202E"},
		{"\u200d", "lobby", "name"},
		{"Ann", "x\u2066y", "room"},
	} {
		p := visitor(t, b, "http://"+server.addr+"/#room="+c.room)
		p.eval(`
			var timers = [];
			for (const kind of ["setTimeout", "setInterval"]) {
				const set = window[kind];
				window[kind] = (f, ms) => { timers.push(ms); return set(f, ms); };
			}
			undefined`, nil)
		p.join(c.name)
		p.until(`closes.length === 1`)
		p.until(formIsShown)
		p.expect(`document.getElementById("refusal").innerText.includes(` + quote(c.says) + `)`)
		p.eval(`dispatchEvent(new Event("online"))`, nil)
		p.expect(`sockets === 1`)
		p.expect(`timers.every(ms => ms === 20)`) // only the timers of until: the page is not going to try again
		p.screenshot("chat-refused")
		p.join("Ann")
		if c.room == "lobby" {
			p.inRoom("lobby")
			p.click("leave")
			p.expect(`document.getElementById("refusal").innerText === ""`)
		}
		p.close()
	}
}

func TestChatPage_TakesNames_WithJoiners(t *testing.T) {
	b := startBrowser(t)
	server := startChat(t, buildChat(t), "127.0.0.1:0")
	ann := person(t, b, server.addr, "lobby", "👩\u200d💻")
	bob := person(t, b, server.addr, "lobby", "نیک\u200cنام")
	ann.until(`document.querySelectorAll("#people li").length === 2`)
	ann.say("from the one")
	bob.sees("from the one")
	bob.expect(`document.querySelector("#log .theirs b").textContent === "👩\u200d💻"`)
}

func TestChatPage_KeepsTheNewestInView_WhenTheComposerGrows(t *testing.T) {
	const below = `(log => log.scrollHeight - log.scrollTop - log.clientHeight)(document.getElementById("log"))`
	const twoFrames = `await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame)`
	const typed = `document.getElementById("text").value = "1\n2\n3\n4\n5\n6"`
	b := startBrowser(t)
	server := startChat(t, buildChat(t), "127.0.0.1:0")
	ann, bob := person(t, b, server.addr, "lobby", "Ann"), person(t, b, server.addr, "lobby", "Bob")
	for _, text := range []string{"first", "second"} {
		bob.say(text + strings.Repeat("\n"+text, 20))
		ann.sees(text + strings.Repeat("\n"+text, 20))
	}
	ann.front()
	ann.until(below + ` < 2`)

	ann.eval(`var before = document.getElementById("log").clientHeight; `+typed, nil)
	ann.until(`document.getElementById("log").clientHeight < before`)
	ann.until(below + ` < 2`)
	bob.say("newest")
	ann.sees("newest")
	ann.until(below + ` < 2`)
	ann.screenshot("chat-composer")

	// A reader who has scrolled up stays there, whatever is said and typed.
	ann.eval(`document.getElementById("text").value = ""; document.getElementById("log").scrollTop = 0`, nil)
	ann.until(`document.getElementById("log").clientHeight === before`)
	ann.eval(twoFrames, nil) // the scroll event comes with a frame
	bob.say("unseen")
	ann.sees("unseen")
	ann.eval(typed, nil)
	ann.until(`document.getElementById("log").clientHeight < before`)
	ann.eval(twoFrames, nil)
	ann.expect(`document.getElementById("log").scrollTop === 0`)
}

func TestChatPage_TellsTwoPeopleApart_WhenTheyHaveOneName(t *testing.T) {
	b := startBrowser(t)
	server := startChat(t, buildChat(t), "127.0.0.1:0")
	first := person(t, b, server.addr, "lobby", "Ann")
	second := person(t, b, server.addr, "lobby", "Ann")
	first.seesPeople("Ann (you),Ann (2)")
	second.seesPeople("Ann,Ann (2) (you)")

	first.say("I am the first")
	second.sees("I am the first")
	second.say("I am the second")
	first.sees("I am the second")
	first.expect(`[...document.querySelectorAll("#log .mine .body")].map(e => e.textContent).join() === "I am the first"`)
	second.expect(`[...document.querySelectorAll("#log .mine .body")].map(e => e.textContent).join() === "I am the second"`)
	first.expect(`document.querySelector("#log .theirs b").textContent === "Ann (2)"`)
	first.screenshot("chat-namesakes")
	second.click("leave")
	first.seesPeople("Ann (you)")
}

func TestChatPage_FollowsTheBackButton(t *testing.T) {
	b := startBrowser(t)
	server := startChat(t, buildChat(t), "127.0.0.1:0")
	bob := person(t, b, server.addr, "lobby", "Bob")
	ann := visitor(t, b, "http://"+server.addr+"/")
	ann.join("Ann")
	ann.inRoom("lobby")
	ann.eval(`location.hash = "room=cellar"`, nil)
	ann.inRoom("cellar")
	bob.seesPeople("Bob (you)")

	ann.eval(`history.back()`, nil)
	ann.inRoom("lobby")
	ann.expect(`document.title === "lobby – Chat"`)
	bob.seesPeople("Ann,Bob (you)")
	ann.say("back again")
	bob.sees("back again")

	ann.eval(`history.back()`, nil)
	ann.until(formIsShown)
	bob.seesPeople("Bob (you)")
	ann.eval(`history.go(2)`, nil)
	ann.until(`document.getElementById("room").value === "cellar"`)
	ann.join("Ann")
	ann.inRoom("cellar")
}

func TestChatPage_ResetsTheTitle_OnLeave(t *testing.T) {
	b := startBrowser(t)
	server := startChat(t, buildChat(t), "127.0.0.1:0")
	ann := person(t, b, server.addr, "lobby", "Ann")
	ann.expect(`document.title === "lobby – Chat"`)
	ann.click("leave")
	ann.expect(`document.title === "Chat"`)
}

func TestChatPage_CountsDown_WhenTheConnectionIsLost(t *testing.T) {
	b := startBrowser(t)
	server := startChat(t, buildChat(t), "127.0.0.1:0")
	wire := newCutter(t, server.addr)
	ann := person(t, b, wire.addr, "lobby", "Ann")
	ann.eval(`
		Math.random = () => 100; // longer than any test waits
		var remaining = () => parseInt(/again in (\d+) s/.exec(document.body.innerText)?.[1]);
		undefined`, nil)
	wire.cut()
	ann.until(`remaining() > 0`)
	ann.eval(`var first = remaining(); undefined`, nil)
	ann.until(`remaining() < first`)
	ann.screenshot("chat-countdown")
	ann.expect(`sockets === 1`)
	wire.mend()
	ann.click("now")
	ann.connected()
	ann.expect(`isNaN(remaining())`)
	ann.expect(`document.getElementById("now").getClientRects().length === 0`)
}

// contrast is that of WCAG 2, from 1 to 21, between the placeholder of an input and its background.
const contrast = `(id => {
	const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
	const over = (...colours) => {
		for (const c of colours) { canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); }
		return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
	};
	const luminance = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const input = document.getElementById(id);
	const ground = getComputedStyle(input).backgroundColor, text = getComputedStyle(input, "::placeholder").color;
	const [dark, light] = [over(ground), over(ground, text)].map(luminance).sort((a, b) => a - b);
	return (light + 0.05) / (dark + 0.05);
})`

func TestChatPage_PlaceholderIsLegible(t *testing.T) {
	b := startBrowser(t)
	server := startChat(t, buildChat(t), "127.0.0.1:0")
	ann := person(t, b, server.addr, "lobby", "Ann")
	for _, scheme := range []string{"light", "dark"} {
		ann.call(t, ann.session, "Emulation.setEmulatedMedia", map[string]any{
			"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}},
		}, nil)
		ann.until(`matchMedia("(prefers-color-scheme: ` + scheme + `)").matches`)
		var got float64
		ann.eval(contrast+`("text")`, &got)
		if got < 4.5 { // WCAG 2.2, success criterion 1.4.3
			t.Errorf("%s: the contrast of the placeholder is %.2f to 1, want 4.5 to 1 at least", scheme, got)
		}
		ann.screenshot("chat-" + scheme)
	}
}
