package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"example.com/websocket"
)

func TestNodes_DeliverEachMessage_OnceAndInOneOrder(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	nodes := []testNode{startNode(t, nats), startNode(t, nats)}
	const each = 15
	var all []*member
	for i := range 4 {
		all = append(all, join(t, nodes[i%2].url, "lobby", fmt.Sprint("P", i)))
	}
	var heard [4][]string
	var readers sync.WaitGroup
	for i, c := range all {
		readers.Go(func() {
			for range each * len(all) {
				e := c.until("a message", func(e event) bool { return e.Seq != 0 })
				heard[i] = append(heard[i], fmt.Sprint(e.Seq, e.From, e.Text))
			}
		})
		readers.Go(func() {
			for _, text := range texts("text", each) {
				c.say(text)
			}
		})
	}
	readers.Wait()
	for i := range heard {
		if !slices.Equal(heard[i], heard[0]) {
			t.Errorf("client %d heard\n%q, client 0\n%q", i, heard[i], heard[0])
		}
	}
	if slices.Sort(heard[0]); len(slices.Compact(heard[0])) != each*len(all) {
		t.Errorf("%q: want %d different messages", heard[0], each*len(all))
	}
}

// Messages keep coming while newcomers arrive, on the sender's node and on another.
func TestNewcomer_GetsTheLastMessages_ThenThoseThatFollow(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	nodes := []testNode{startNode(t, nats), startNode(t, nats)}
	const total = 500
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		publish(t, nodes[0].Bus, "lobby", messages("m", total)...)
	}()
	var arriving sync.WaitGroup
	for i := range 20 {
		ann := join(t, nodes[i%2].url, "lobby", "Ann")
		arriving.Go(func() {
			var got []int
			for len(got) == 0 || got[len(got)-1] != total-1 {
				e := ann.until("a message", func(e event) bool { return e.Seq != 0 || e.Gap })
				var n int
				if fmt.Sscanf(e.Text, "m %d", &n); len(got) > 0 && n != got[len(got)-1]+1 || e.Gap {
					t.Errorf("newcomer %d: %+v after %v", i, e, got)
					return
				}
				got = append(got, n)
			}
			if len(got) < kept {
				t.Errorf("newcomer %d got the last %d messages", i, len(got))
			}
		})
	}
	<-stop
	arriving.Wait()
}

// messages returns n messages as a node stores them.
func messages(prefix string, n int) (all []string) {
	for _, text := range texts(prefix, n) {
		all = append(all, string(encode(said{From: "Eve", ID: token(text), Text: text})))
	}
	return all
}

func TestClient_ResumesOnAnotherNode_AfterTheLastMessageItSaw(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	one, two := startNode(t, nats), startNode(t, nats)
	ann := join(t, one.url, "lobby", "Ann")
	ann.hasOnline(true)
	publish(t, one.Bus, "lobby", messages("seen", 3)...)
	ann.hears(texts("seen", 3)...)
	ann.CloseNow()
	publish(t, one.Bus, "lobby", messages("missed", kept-1)...)
	ann.connect(two.url) // which had no members of the room
	ann.hears(texts("missed", kept-1)...)
	ann.CloseNow()
	ann.connect(one.url)
	publish(t, two.Bus, "lobby", messages("more", 1)...)
	ann.hears("more 0")
}

func TestClient_IsToldOfAGap_WhenItWasAwayForTooLong(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	node, other := startNode(t, nats), startNode(t, nats)
	for _, seen := range []int{0, 1} {
		for _, resident := range []bool{false, true} {
			t.Run(fmt.Sprint("seen ", seen, " resident ", resident), func(t *testing.T) {
				room := fmt.Sprint(seen, resident)
				ann := join(t, other.url, room, "Ann")
				ann.until("the stream", func(e event) bool { return e.Stream != "" })
				publish(t, node.Bus, room, messages("seen", seen)...)
				ann.hears(texts("seen", seen)...)
				ann.CloseNow()
				var bob *member
				if resident {
					bob = join(t, node.url, room, "Bob")
					bob.hears(texts("seen", seen)...)
					bob.hasOnline(true)
				}
				publish(t, node.Bus, room, messages("missed", kept+3)...)
				if resident {
					bob.hears(texts("missed", kept+3)...)
				}
				ann.connect(node.url)
				ann.until("a gap", func(e event) bool {
					if e.Seq != 0 {
						t.Fatalf("%+v comes before the gap", e)
					}
					return e.Gap
				})
				ann.hears(texts("missed", kept+3)[3:]...)
			})
		}
	}
}

// A client that lies about the messages it has seen only misses some itself.
func TestClient_ThatLiesAboutWhatItSaw(t *testing.T) {
	t.Parallel()
	node := startNode(t, startNATS(t))
	bob := join(t, node.url, "lobby", "Bob")
	bob.hasOnline(true)
	publish(t, node.Bus, "lobby", messages("m", 3)...)
	bob.hears(texts("m", 3)...)
	stream := bob.at.stream

	ann := join(t, node.url, "lobby", "Ann")
	for _, lie := range []struct {
		at   cursor
		gap  bool
		want []string
	}{
		{cursor{stream: "another", seq: 2}, true, texts("m", 3)},
		{cursor{stream: "another", seq: 1 << 63}, true, texts("m", 3)},
		{cursor{stream: stream, seq: 0}, false, texts("m", 3)},
		{cursor{stream: stream, seq: 2}, false, texts("m", 3)[2:]},
	} {
		ann.CloseNow()
		ann.at = lie.at
		ann.connect(node.url)
		if e := ann.until("the stream", func(e event) bool { return e.Stream != "" }); e.Gap != lie.gap {
			t.Errorf("%+v: gap %v", lie.at, e.Gap)
		}
		ann.hears(lie.want...)
	}
	ann.CloseNow()
	ann.at = cursor{stream: stream, seq: 1<<64 - 1}
	ann.connect(node.url)
	ann.sees("Ann", "Bob")
	bob.say("hello")
	bob.hears("hello")

	for _, q := range []string{"&after=-1", "&after=x", "&after=99999999999999999999", "&stream=" + strings.Repeat("x", 33)} {
		wantRefused(t, node.url+"/ws?room=lobby"+q, ann.cookie, http.StatusBadRequest)
	}
}

// wantRefused checks that a handshake is refused with the given status.
func wantRefused(t *testing.T, url string, cookie *http.Cookie, status int, header ...string) {
	t.Helper()
	h := http.Header{}
	if cookie != nil {
		h.Set("Cookie", cookie.Name+"="+cookie.Value)
	}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	c, err := websocket.Dial(t.Context(), url, &websocket.Options{Header: h})
	if err == nil {
		c.CloseNow()
	}
	var refused *websocket.HandshakeError
	if !errors.As(err, &refused) || refused.StatusCode != status {
		t.Errorf("%s: %v, want status %d", url, err, status)
	}
}

func TestClient_IsTold_WhenTheStreamIsReplaced(t *testing.T) {
	t.Parallel()
	node := startNode(t, startNATS(t))
	ann := join(t, node.url, "lobby", "Ann")
	ann.hasOnline(true)
	publish(t, node.Bus, "lobby", messages("old", 5)...)
	ann.hears(texts("old", 5)...)
	bob := join(t, node.url, "lobby", "Bob")
	bob.hears(texts("old", 5)...)
	bob.CloseNow()
	if err := node.Bus.js.DeleteStream(t.Context(), "CHAT"); err != nil {
		t.Fatal(err)
	}
	ann.until("a new stream", func(e event) bool { return e.Stream != "" && e.Gap })
	publish(t, node.Bus, "lobby", messages("new", 2)...)
	ann.hears(texts("new", 2)...)
	bob.connect(node.url) // with a sequence number that the new stream has not reached
	bob.until("a new stream", func(e event) bool { return e.Stream == ann.at.stream && e.Gap })
	bob.hears(texts("new", 2)...)
}

func TestNode_LimitsItsRooms(t *testing.T) {
	t.Parallel()
	node := startNode(t, startNATS(t))
	ann := join(t, node.url, "lobby", "Ann")
	ann.hasOnline(true)
	node.mu.Lock()
	for i := range maxRooms - 1 {
		node.rooms[strconv.Itoa(i)] = newRoom()
	}
	node.mu.Unlock()
	bob := join(t, node.url, "one too many", "Bob")
	if _, err := bob.next(); !errors.Is(err, websocket.StatusTryAgainLater) {
		t.Errorf("closed with %v, want 1013", err)
	}
	join(t, node.url, "lobby", "Cid").hasOnline(true)
}

func TestNode_WithoutNATS_TellsItsMembersAndRefusesMessages(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	link, near := newLink(t, nats)
	node, other := startNode(t, near), startNode(t, nats)
	ann, bob := join(t, node.url, "lobby", "Ann"), join(t, other.url, "lobby", "Bob")
	ann.hasOnline(true)
	bob.hasOnline(true)
	wantHealth(t, node, http.StatusOK)

	link.cut()
	ann.hasOnline(false)
	wantHealth(t, node, http.StatusServiceUnavailable)
	ann.send("lost", "nobody hears this")
	if e := ann.until("a refusal", func(e event) bool { return e.Refused != "" }); e.Refused != "lost" || e.Reason == "" {
		t.Errorf("%+v", e)
	}
	cid := join(t, node.url, "lobby", "Cid") // newcomers are admitted, and wait
	cid.hasOnline(false)
	bob.say("one")
	bob.say("two")
	bob.hears("one", "two")

	link.heal()
	ann.hears("one", "two")
	cid.hears("one", "two")
	ann.hasOnline(true)
	ann.send("lost", "again")
	bob.hears("again")
	ann.hears("again")
	cid.hears("again")
}

func wantHealth(t *testing.T, n testNode, status int) {
	t.Helper()
	r, err := http.Get(n.url + "/health")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != status {
		t.Errorf("health is %s, want %d", r.Status, status)
	}
}

// A client repeats a message when it does not learn whether it was stored. It is stored once, whichever nodes it was
// sent to.
func TestClient_ThatRepeatsAMessage_IsHeardOnce(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	one, two := startNode(t, nats), startNode(t, nats)
	ann, bob := join(t, one.url, "lobby", "Ann"), join(t, two.url, "lobby", "Bob")
	ann.send("1", "hello")
	ann.hears("hello")
	ann.send("1", "hello")
	ann.CloseNow()
	ann.connect(two.url)
	ann.send("1", "hello")
	ann.say("end")
	bob.send("1", "ids of others do not matter")
	heard := func(e event) bool { return e.Seq != 0 }
	var got []string
	for range 3 {
		got = append(got, bob.until("a message", heard).Text)
	}
	slices.Sort(got)
	if want := []string{"end", "hello", "ids of others do not matter"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSlowClient_IsClosedWith1013_AndCatchesUp(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	node := startNode(t, nats, func(n *Node) { n.MaxPending = 64 << 10 })
	bob := join(t, node.url, "lobby", "Bob")
	ann := join(t, node.url, "lobby", "Ann")
	ann.sees("Ann", "Bob")
	bob.sees("Ann", "Bob")
	// Ann reads nothing while Bob sends, until her node closes her connection.
	long := strings.Repeat("x", 12<<10)
	var all []string
	for !closesOne(node) {
		text := fmt.Sprint(len(all), long)
		all = append(all, text)
		if err := node.Bus.Publish(t.Context(), "lobby", strconv.Itoa(len(all)), encode(said{"Bob", "1", text})); err != nil {
			t.Fatal(err)
		}
		bob.hears(text)
	}
	heard := 0
	for {
		e, err := ann.next()
		if err != nil {
			if !errors.Is(err, websocket.StatusTryAgainLater) {
				t.Fatalf("closed with %v, want 1013", err)
			}
			break
		}
		if e.Seq != 0 {
			if e.Text != all[heard] {
				t.Fatalf("message %d is %.10q", heard, e.Text)
			}
			heard++
		}
	}
	if heard == len(all) || heard < len(all)-kept {
		t.Fatalf("heard %d of %d messages", heard, len(all))
	}
	ann.connect(node.url)
	ann.hears(all[heard:]...)
}

// closesOne reports whether n has closed a connection.
func closesOne(n testNode) bool {
	for c := range n.everyone.All() {
		if errors.Is(c.Send(websocket.TextMessage, []byte("{}")), websocket.StatusTryAgainLater) {
			return true
		}
	}
	return false
}

func TestNode_Drains(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	node, other := startNode(t, nats), startNode(t, nats)
	ann := join(t, node.url, "lobby", "Ann")
	bob := join(t, other.url, "lobby", "Bob")
	bob.sees("Ann", "Bob")
	closed := make(chan error)
	go func() {
		for {
			if _, err := ann.next(); err != nil {
				closed <- err
				return
			}
		}
	}()
	if err := node.stop(); err != nil {
		t.Errorf("drained: %v", err)
	}
	// Everything is gone before Serve returns: nothing is left to expire.
	keys, err := other.People.bucket.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(keys, func(k string) bool { return strings.HasPrefix(k, token("lobby")+"."+node.People.node) }); i >= 0 {
		t.Errorf("%s is still in the bucket", keys[i])
	}
	if n := node.Bus.nc.NumSubscriptions(); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
	if err := <-closed; !errors.Is(err, websocket.StatusGoingAway) {
		t.Errorf("closed with %v, want 1001", err)
	}
	bob.sees("Bob")
	ann.connect(other.url)
	bob.sees("Ann", "Bob")
}

func TestNode_RefusesHandshakes(t *testing.T) {
	t.Parallel()
	node := startNode(t, startNATS(t))
	ann := signIn(t, node.url, "Ann")
	ws := node.url + "/ws?room="
	wantRefused(t, ws+"lobby", nil, http.StatusUnauthorized)
	wantRefused(t, ws+"lobby", ann, http.StatusForbidden, "Origin", "https://evil.example")
	for _, room := range []string{"", " ", " lobby", "A\nB", "A\u202eB", "A\xffB", "\u200d", strings.Repeat("é", maxName+1), strings.Repeat("x", 10<<10)} {
		c, err := dial(t.Context(), node.url, room, ann, cursor{})
		if err != nil {
			t.Fatal(err)
		}
		eve := &member{Conn: c, t: t}
		if e, err := eve.next(); e.Reason == "" {
			t.Errorf("room %.20q: %+v, %v, want a reason", room, e, err)
		}
		if _, err := eve.next(); !errors.Is(err, websocket.StatusPolicyViolation) {
			t.Errorf("room %.20q is closed with %v, want 1008", room, err)
		}
		eve.CloseNow()
	}
	for _, room := range []string{strings.Repeat("é", maxName), "a.b *> Ω", ">", "_", "👩\u200d💻"} {
		bob := join(t, node.url, room, "Bob")
		bob.say("hello " + room)
		bob.hears("hello " + room)
	}
}

func TestNode_AnswersBadMessages(t *testing.T) {
	t.Parallel()
	node := startNode(t, startNATS(t))
	ann := join(t, node.url, "lobby", "Ann")
	for _, bad := range []string{"hello", "[]", "{}", `{"id":"1"}`, `{"text":"no id"}`, `{"id":"a.b","text":"x"}`,
		`{"id":"1\r\nNats-Rollup: all","text":"x"}`, `{"id":"` + strings.Repeat("x", 65) + `","text":"x"}`} {
		if err := ann.Write(t.Context(), websocket.TextMessage, []byte(bad)); err != nil {
			t.Fatal(err)
		}
		if e := ann.until("an answer", func(e event) bool { return e.Reason != "" || e.Seq != 0 }); e.Seq != 0 {
			t.Errorf("%q was published", bad)
		}
	}
	ann.say("<b>&\u2028\x01é</b>")
	ann.hears("<b>&\u2028\x01é</b>")

	for _, offence := range []struct {
		typ  websocket.MessageType
		size int
		want websocket.StatusCode
	}{
		{websocket.BinaryMessage, 1, websocket.StatusUnsupportedData},
		{websocket.TextMessage, maxMessage + 1, websocket.StatusMessageTooBig},
	} {
		bob := join(t, node.url, "lobby", "Bob")
		if err := bob.Write(t.Context(), offence.typ, make([]byte, offence.size)); err != nil {
			t.Fatal(err)
		}
		for err := error(nil); err == nil; {
			if _, err = bob.next(); err != nil && !errors.Is(err, offence.want) {
				t.Errorf("closed with %v, want %v", err, offence.want)
			}
		}
	}
}

// Somebody with access to NATS may publish anything there.
func TestRoom_SkipsWhatIsNotFromANode(t *testing.T) {
	t.Parallel()
	node := startNode(t, startNATS(t))
	ann := join(t, node.url, "lobby", "Ann")
	ann.hasOnline(true)
	publish(t, node.Bus, "lobby", "junk", "", "[1]", "\xff")
	if err := node.Bus.nc.Publish("live."+token("lobby"), []byte(`{"text":"no headers"}`)); err != nil {
		t.Fatal(err)
	}
	ann.say("hello")
	ann.hears("hello")
	bob := join(t, node.url, "lobby", "Bob")
	bob.hears("hello")
}

func TestPerson_HasOneRateInAllTabs(t *testing.T) {
	t.Parallel()
	node := startNode(t, startNATS(t))
	p := Person{"1", "Ann"}
	first, second := node.arrive(p), node.arrive(p)
	if first == nil || first != second || first == node.arrive(Person{"2", "Ann"}) {
		t.Error("a rate is not that of a person")
	}
	node.depart(p)
	node.depart(p)
	if node.arrive(p) != first {
		t.Error("coming back renews the rate")
	}
	for range maxTabs - 1 {
		node.arrive(p)
	}
	if node.arrive(p) != nil {
		t.Error("there is no limit on tabs")
	}
}

func TestTabs_OfOnePerson_AreIndependent(t *testing.T) {
	t.Parallel()
	node := startNode(t, startNATS(t))
	ann := join(t, node.url, "lobby", "Ann")
	tab := &member{t: t, cookie: ann.cookie, room: "lobby"}
	tab.connect(node.url)
	bob := join(t, node.url, "lobby", "Bob")
	bob.sees("Ann", "Bob")
	ann.say("hello")
	ann.hears("hello")
	tab.hears("hello")
	tab.Close(websocket.StatusNormalClosure, "")
	ann.say("still here")
	bob.hears("hello", "still here")
	bob.say("and so are you")
	ann.hears("still here", "and so are you")

	for range maxTabs - 1 {
		tab.connect(node.url)
		tab.hasOnline(true)
	}
	tab.connect(node.url)
	for err := error(nil); err == nil; {
		if _, err = tab.next(); err != nil && !errors.Is(err, websocket.StatusPolicyViolation) {
			t.Errorf("closed with %v, want 1008", err)
		}
	}
}

func TestPage_IsServedWithItsPolicy(t *testing.T) {
	t.Parallel()
	node := startNode(t, startNATS(t))
	for path, typ := range map[string]string{"/": "text/html", "/chat.js": "text/javascript", "/chat.css": "text/css"} {
		r, err := http.Get(node.url + path)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if got := r.Header.Get("Content-Type"); r.StatusCode != http.StatusOK || !strings.HasPrefix(got, typ) {
			t.Errorf("%s: %s, type %q", path, r.Status, got)
		}
		if csp := r.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'self'") {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
}
