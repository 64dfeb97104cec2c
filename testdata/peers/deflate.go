package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"errors"
	"flag"
	"fmt"
	"go/build"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	kflate "github.com/klauspost/compress/flate"
)

// deflateColumns are the compressors and levels of the table.
var deflateColumns = []struct {
	name  string
	open  func(level int, takeover bool) (compressing, error)
	level int
}{
	{"this", oursCompressing, 1}, {"this", oursCompressing, 6}, {"this", oursCompressing, 9},
	{"compress/flate", flateCompressing, 1}, {"compress/flate", flateCompressing, 6},
	{"klauspost", klauspostCompressing, 1}, {"klauspost", klauspostCompressing, 6},
}

// deflateCommand prints a table of the sizes and the CPU time of messages compressed by this package, by compress/flate
// and by klauspost/compress. This package is measured through Write, with its frames, over a connection that discards
// them; the others are measured alone, each with a writer that is reused.
func deflateCommand(args []string) error {
	fs := flag.NewFlagSet("deflate", flag.ContinueOnError)
	slice := fs.Duration("slice", 20*time.Millisecond, "time of one turn of a cell")
	rounds := fs.Int("rounds", 7, "turns of each cell, of which the fastest counts")
	if err := fs.Parse(args); err != nil {
		return err
	}
	cells, err := deflateCells()
	if err != nil {
		return err
	}
	fmt.Print("| size, and µs of CPU a message |")
	for _, c := range deflateColumns {
		fmt.Printf(" %s, level %d |", c.name, c.level)
	}
	fmt.Println("\n|---" + strings.Repeat("|---", len(deflateColumns)) + "|")
	for _, c := range cells {
		if err := c.row(*rounds, *slice); err != nil {
			return err
		}
	}
	return nil
}

// A deflateCell is a row of the table: messages of one kind, with or without context takeover.
type deflateCell struct {
	name     string
	messages [][]byte
	takeover bool
}

// deflateCells returns the rows. Text and HTML are files of the Go distribution, cut into messages.
func deflateCells() (cells []deflateCell, err error) {
	text, err := os.ReadFile(filepath.Join(build.Default.GOROOT, "src/testdata/Isaac.Newton-Opticks.txt"))
	if err != nil {
		return nil, err
	}
	html, err := os.ReadFile(filepath.Join(build.Default.GOROOT, "doc/go_spec.html"))
	if err != nil {
		return nil, err
	}
	for _, takeover := range []bool{false, true} {
		add := func(kind string, n int, messages [][]byte) {
			name := fmt.Sprintf("%s, %d B", kind, n)
			if takeover {
				name += ", takeover"
			}
			cells = append(cells, deflateCell{name, messages, takeover})
		}
		add("JSON", 100, corpus(100))
		for _, n := range []int{1000, 20_000} {
			add("JSON", n, corpus(n))
			add("text", n, pieces(text[:256<<10], n))
			add("HTML", n, pieces(html[:256<<10], n))
		}
	}
	return cells, nil
}

// pieces cuts b into messages of n bytes.
func pieces(b []byte, n int) (all [][]byte) {
	for p := range slices.Chunk(b, n) {
		if len(p) == n {
			all = append(all, p)
		}
	}
	return all
}

// row measures the cell with each compressor in turn, several times, and prints the row.
func (c *deflateCell) row(rounds int, slice time.Duration) error {
	type figure struct {
		compress compressing
		size     int
		best     time.Duration
	}
	figures := make([]figure, len(deflateColumns))
	total := 0
	for i, column := range deflateColumns {
		f := &figures[i]
		var err error
		if f.compress, err = column.open(column.level, c.takeover); err != nil {
			return err
		}
		total = 0
		for _, m := range c.messages {
			n, err := f.compress(m)
			if err != nil {
				return err
			}
			f.size, total = f.size+n, total+len(m)
		}
	}
	for round := range rounds {
		for i := range figures {
			t, err := c.turn(figures[i].compress, slice)
			if err != nil {
				return err
			}
			if round == 0 || t < figures[i].best {
				figures[i].best = t
			}
		}
	}
	fmt.Printf("| %s |", c.name)
	for _, f := range figures {
		µs := float64(f.best) / 1e3
		decimals := 1
		if µs >= 100 {
			decimals = 0
		}
		fmt.Printf(" %.1f %%, %.*f |", 100*float64(f.size)/float64(total), decimals, µs)
	}
	fmt.Println()
	return nil
}

// turn returns the CPU time of a message.
func (c *deflateCell) turn(one compressing, slice time.Duration) (time.Duration, error) {
	before, begin, n := used().CPU, time.Now(), 0
	for time.Since(begin) < slice {
		for range max(1, 100_000/len(c.messages[0])) {
			if _, err := one(c.messages[n%len(c.messages)]); err != nil {
				return 0, err
			}
			n++
		}
	}
	return (used().CPU - before) / time.Duration(n), nil
}

// A compressing compresses a message as a connection would, and returns the length of its payload.
type compressing func(p []byte) (int, error)

type resetWriter interface {
	io.Writer
	Flush() error
	Reset(w io.Writer)
}

type byteCount int

func (n *byteCount) Write(p []byte) (int, error) { *n += byteCount(len(p)); return len(p), nil }

func flateCompressing(level int, takeover bool) (compressing, error) {
	w, err := flate.NewWriter(io.Discard, level)
	return writerCompressing(w, takeover), err
}

func klauspostCompressing(level int, takeover bool) (compressing, error) {
	w, err := kflate.NewWriter(io.Discard, level)
	return writerCompressing(w, takeover), err
}

func writerCompressing(w resetWriter, takeover bool) compressing {
	var n byteCount
	w.Reset(&n)
	return func(p []byte) (int, error) {
		n = -4 // 00 00 ff ff, which is not sent
		if !takeover {
			w.Reset(&n)
		}
		if _, err := w.Write(p); err != nil {
			return 0, err
		}
		err := w.Flush()
		return int(n), err
	}
}

// countingConn is a memoryConn that counts the payload of the frames written: one to a write, unmasked, below 64 KiB.
type countingConn struct {
	*memoryConn
	n int
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.n += len(p) - 2
	if p[1] == 126 {
		c.n -= 2
	}
	return len(p), nil
}

func oursCompressing(level int, takeover bool) (compressing, error) {
	o := options{Compress: true, Level: level, Takeover: takeover}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(handshake(o))))
	if err != nil {
		return nil, err
	}
	nc := &countingConn{memoryConn: &memoryConn{silent: true, ended: make(chan struct{})}}
	opened := make(chan conn, 1)
	ev := events{open: func(c conn) { opened <- c }}.withDefaults()
	go oursHandler(o, ev).ServeHTTP(memoryWriter{nc: nc, header: http.Header{}}, r)
	select {
	case c := <-opened:
		return func(p []byte) (int, error) {
			nc.n = 0
			err := c.send(false, p)
			return nc.n, err
		}, nil
	case <-time.After(time.Second):
		return nil, errors.New("no handshake over memory")
	}
}
