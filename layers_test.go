package websocket

import (
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The rooms of the house. A file may use what its own room and the rooms below it declare, and nothing else; a new
// file has to find its room here. Conn is one type over several files, and they are one room.
var rooms = []struct {
	name  string
	files string
	below string // all of them, not only the next
}{
	{"ground", "errors.go mask.go utf8.go pool.go turn.go deadline.go", ""},
	{"frame", "frame.go", "ground"},
	{"compress", "compress.go deflate.go inflate.go huffman.go", "ground frame"},
	{"conn", "close.go conn.go message.go write.go send.go socket.go wait_unix.go wait_other.go keepalive.go netconn.go", "ground frame compress"},
	{"group", "group.go", "ground frame compress conn"},
	{"handshake", "handshake.go request.go serve.go header.go origin.go dial.go tunnel.go http2.go h2conn.go pipe.go", "ground frame compress conn group"},
}

// imports that files must do without, beside those that nobody may have.
var unknownTo = []struct{ files, imports string }{
	{"mask.go utf8.go frame.go deflate.go inflate.go huffman.go pool.go header.go", "net net/http context time os io"},
	{"compress.go", "net net/http context time os io"},
	{"close.go conn.go message.go write.go send.go socket.go keepalive.go netconn.go group.go", "net/http net/url crypto/tls"},
}

// unknownToAll: what is random comes from crypto/rand (R45), and headers are parsed in linear time (R30).
const unknownToAll = "C unsafe math/rand math/rand/v2 regexp"

func TestLayers_AFileUsesOnlyWhatStandsBelowIt(t *testing.T) {
	fset, files := parsePackage(t)
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
	conf := types.Config{Importer: importer.Default()}
	if _, err := conf.Check("example.com/websocket", fset, files, info); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for ident, obj := range info.Uses {
		if !obj.Pos().IsValid() || obj.Pkg() == nil || obj.Pkg().Path() != "example.com/websocket" {
			continue
		}
		from, to := fileOf(fset, ident.Pos()), fileOf(fset, obj.Pos())
		use := from + " uses " + obj.Name() + " of " + to
		if !mayUse(roomOf(from), roomOf(to)) && !seen[use] {
			seen[use] = true
			t.Errorf("%s, which stands above it or beside it", use)
		}
	}
}

func TestLayers_EveryFileHasARoom(t *testing.T) {
	for _, name := range sourceFiles(t) {
		if roomOf(name) < 0 {
			t.Errorf("%s stands in no room", name)
		}
	}
}

func TestLayers_Imports(t *testing.T) {
	for _, name := range sourceFiles(t) {
		for _, path := range importsOf(t, name) {
			if first, _, _ := strings.Cut(path, "/"); strings.Contains(first, ".") {
				t.Errorf("%s imports %s, which is not of the standard library", name, path)
			}
			if has(unknownToAll, path) {
				t.Errorf("%s imports %s, which no file may", name, path)
			}
			for _, u := range unknownTo {
				if has(u.files, name) && has(u.imports, path) {
					t.Errorf("%s imports %s, of which it should not know", name, path)
				}
			}
		}
	}
}

// parsePackage parses the files that are built on this system.
func parsePackage(t *testing.T) (*token.FileSet, []*ast.File) {
	t.Helper()
	pkg, err := build.ImportDir(".", 0)
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range pkg.GoFiles {
		file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return fset, files
}

// sourceFiles names those of every system, without the tests.
func sourceFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".go") && !strings.HasSuffix(e.Name(), "_test.go") {
			names = append(names, e.Name())
		}
	}
	return names
}

func importsOf(t *testing.T, name string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, spec := range file.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

func fileOf(fset *token.FileSet, pos token.Pos) string {
	return filepath.Base(fset.Position(pos).Filename)
}

// roomOf returns the index of the room of a file, or -1.
func roomOf(name string) int {
	for i, room := range rooms {
		if has(room.files, name) {
			return i
		}
	}
	return -1
}

func mayUse(from, to int) bool {
	return from == to || from >= 0 && to >= 0 && has(rooms[from].below, rooms[to].name)
}

func has(list, name string) bool { return slices.Contains(strings.Fields(list), name) }
