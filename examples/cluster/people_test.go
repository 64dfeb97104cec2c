package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A node that dies does not withdraw its people. They must be gone 10 s later, even on a node that starts meanwhile: it
// may read an entry just before the entry expires, and then waits for three heartbeats like the others.
func TestPeople_OfADeadNode_AreGoneAfterTenSeconds(t *testing.T) {
	if longest := maxMissed*refresh + (maxMissed+1)*refresh; longest > 10*time.Second {
		t.Errorf("people of a dead node may be seen for %v", longest)
	}
}

func TestPeople_AreKnownOnAllNodes(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	one, two := startNode(t, nats), startNode(t, nats)
	ann := join(t, one.url, "lobby", "Ann")
	ann.sees("Ann")
	bob := join(t, two.url, "lobby", "Bob")
	ann.sees("Ann", "Bob")
	bob.sees("Ann", "Bob")
	cid := join(t, two.url, "lobby", "Cid")
	eve := join(t, two.url, "cellar", "Eve")
	eve.sees("Eve")
	ann.sees("Ann", "Bob", "Cid")
	cid.sees("Ann", "Bob", "Cid")
	ann.CloseNow()
	bob.sees("Bob", "Cid")
	bob.CloseNow()
	cid.sees("Cid")
}

func TestPeople_OfAKilledNode_AreGone(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	node := startNode(t, nats)
	bob := join(t, node.url, "lobby", "Bob")
	killed := startProcess(t, "node", "-addr", "127.0.0.1:0", "-nats", nats)
	ann := join(t, killed.readURL(), "lobby", "Ann")
	bob.sees("Ann", "Bob")
	killed.kill()
	late := startNode(t, nats)
	cid := join(t, late.url, "lobby", "Cid")
	bob.sees("Bob", "Cid")
	cid.sees("Bob", "Cid")
	ann.CloseNow()
	keys, err := node.People.bucket.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if strings.HasPrefix(key, token("lobby")) && !strings.Contains(key, node.People.node) && !strings.Contains(key, late.People.node) {
			t.Errorf("%s is still in the bucket", key)
		}
	}
}

// Nobody leaves while the bucket is unavailable, and afterwards everybody is still there.
func TestPeople_Stay_WhileNATSIsLost(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	link, near := newLink(t, nats)
	one, two := startNode(t, near), startNode(t, nats)
	ann, bob := join(t, one.url, "lobby", "Ann"), join(t, two.url, "lobby", "Bob")
	ann.sees("Ann", "Bob")
	link.cut()
	bob.sees("Bob") // the node of Ann is as good as dead
	link.heal()
	bob.sees("Ann", "Bob")
	join(t, two.url, "lobby", "Cid")
	ann.until("Cid", func(e event) bool {
		if len(e.People) == 1 {
			t.Errorf("%q are in the room", e.People)
		}
		return len(e.People) == 3
	})
}

func TestPeople_ComeBack_AfterTheBucketWasDeleted(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	one, two := startNode(t, nats), startNode(t, nats)
	ann := join(t, one.url, "lobby", "Ann")
	ann.sees("Ann")
	if err := one.Bus.js.DeleteKeyValue(t.Context(), "CHAT_PEOPLE"); err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Fatal(err)
	}
	join(t, two.url, "lobby", "Bob")
	ann.sees("Ann", "Bob")
}

// Somebody with access to NATS may put junk into the bucket.
func TestPeople_SkipsWhatIsNotFromANode(t *testing.T) {
	t.Parallel()
	node := startNode(t, startNATS(t))
	ann := join(t, node.url, "lobby", "Ann")
	ann.sees("Ann")
	for _, key := range []string{token("lobby"), token("lobby") + ".x", "_", "_.x", "x.y.z.w"} {
		if _, err := node.People.bucket.Put(t.Context(), key, []byte("junk")); err != nil {
			t.Fatal(err)
		}
	}
	join(t, node.url, "lobby", "Bob")
	ann.sees("Ann", "Bob")
}
