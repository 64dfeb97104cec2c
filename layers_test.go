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

// The layers of the package. A file uses what its own layer and the layers listed with it declare, and nothing else.
// Add each new file here. Conn, with the groups it belongs to, is one layer.
var layers = []struct {
	name  string
	files string
	below string // all of them, not only the next
}{
	{"ground", "errors.go handshakeerror.go mask.go maskkey.go maskkey_js.go utf8.go simd.go simd_other.go pool.go turn.go deadline.go", ""},
	{"frame", "frame.go", "ground"},
	{"compress", "compress.go deflate.go match.go inflate.go huffman.go", "ground frame"},
	{"conn", "conn.go reader.go message.go messagereader.go onmessage.go poller.go poller_unix.go poller_linux.go poller_bsd.go poller_other.go " +
		"queue.go writer.go put.go control.go write.go ping.go close.go prepared.go group.go broadcast.go netconn.go socket.go socket_unix.go socket_other.go", "ground frame compress"},
	{"handshake", "config.go options.go handshake.go handler.go request.go serve.go field.go origin.go dial.go tunnel.go http2.go h2conn.go pipe.go " +
		"dial_other.go options_js.go nohttp_js.go dial_js.go browser_js.go browserwriter_js.go",
		"ground frame compress conn"},
}

// The owners of the parts of a connection. Only an owner's files select the fields of its types, and other files call
// only the listed methods.
var owners = []struct{ types, files, calls string }{
	{
		"reader readBuffer inMessage readCounts messageReader delivery", "reader.go message.go messagereader.go frame.go onmessage.go",
		"init next lock unlock atRest fill start lend own newStream takeBack setLimit stats resume Read " +
			"interrupt discard drain drained forget isReading delivers refuses ended visit wake run",
	},
	{
		"writer queue entry copiedFrame messageWriter pongPayload", "queue.go writer.go put.go control.go write.go",
		"init begin stats submit enqueue offer sendQueued pong sendPing expectMore flushDeferred " +
			"finalize abort flushing isFlushed onlyCloses",
	},
	{
		"ending closing lifetime membership", "close.go",
		"init failure errorOf failing closed reached fail writeFailed peerClosed expel join quit",
	},
	{"poller slot readiness workers", "poller.go poller_unix.go poller_linux.go poller_bsd.go poller_other.go", "enroll leave setDue arm add"},
	{"pings liveness", "ping.go", "init answered lastRTT payload start heard pause due isDue limit judges park"},
	{"turn signal", "turn.go", "tryLock lock unlock isHeld isContended wait fire"},
	{"watch watched", "socket.go", "is set unset isSet setActive"},
	{"PreparedMessage", "prepared.go", "outFrame"},
	{"Group senders", "group.go broadcast.go", "drop closing isClosed"},
	{"deadline", "deadline.go", "context take"},
	{"pipeFlow", "pipe.go", "await lend closeWrite closeRead isAtEOF"},
}

// Imports that some files must not have, besides the imports that no file may have.
var unknownTo = []struct{ files, imports string }{
	{"mask.go utf8.go simd.go simd_other.go frame.go deflate.go match.go inflate.go huffman.go pool.go field.go", "net net/http context time os io"},
	{"compress.go", "net net/http context time os io"},
	{"conn.go reader.go message.go messagereader.go onmessage.go poller.go queue.go writer.go put.go control.go write.go ping.go close.go prepared.go group.go broadcast.go netconn.go socket.go", "net/http net/url crypto/tls"},
}

// unknownToAll are imports that no file may have: random numbers come from crypto/rand, and HTTP is parsed in linear
// time.
const unknownToAll = "C unsafe math/rand math/rand/v2 regexp"

func TestLayers_AFileUsesOnlyWhatIsBelowIt(t *testing.T) {
	fset, files := parsePackage(t)
	info := checkPackage(t, fset, files)
	seen := make(map[string]bool)
	for ident, obj := range info.Uses {
		if !isOurs(obj) {
			continue
		}
		from, to := fileOf(fset, ident.Pos()), fileOf(fset, obj.Pos())
		use := from + " uses " + obj.Name() + " of " + to
		if !mayUse(layerOf(from), layerOf(to)) && !seen[use] {
			seen[use] = true
			t.Errorf("%s, which is not below it", use)
		}
	}
}

// A field belongs to one owner, so that a data race between two owners is a failure of this test.
func TestLayers_AnOwnerKeepsItsFields(t *testing.T) {
	fset, files := parsePackage(t)
	called := make(map[string]bool)
	for expr, sel := range checkPackage(t, fset, files).Selections {
		name, o := ownerOf(sel)
		from := fileOf(fset, expr.Pos())
		if o < 0 || has(owners[o].files, from) {
			continue
		}
		switch use := name + "." + sel.Obj().Name(); {
		case sel.Kind() == types.FieldVal:
			t.Errorf("%s selects %s, a field that belongs to %s", from, use, owners[o].files)
		case !sel.Obj().Exported() && !has(owners[o].calls, sel.Obj().Name()):
			t.Errorf("%s calls %s, which is not one of the calls between owners", from, use)
		}
		called[name+"."+sel.Obj().Name()] = true
	}
	for _, o := range owners {
		for _, call := range strings.Fields(o.calls) {
			if !slices.ContainsFunc(strings.Fields(o.types), func(name string) bool { return called[name+"."+call] }) {
				t.Errorf("no other owner calls %s of %s", call, o.files)
			}
		}
	}
}

// ownerOf returns the type whose field or method is selected, and the index of its owner or -1.
func ownerOf(sel *types.Selection) (name string, owner int) {
	typ := sel.Recv()
	index := sel.Index()
	for _, i := range index[:len(index)-1] { // through embedded fields
		typ = deref(typ).Underlying().(*types.Struct).Field(i).Type()
	}
	named, ok := deref(typ).(*types.Named)
	if !ok || !isOurs(named.Obj()) {
		return "", -1
	}
	name = named.Obj().Name()
	for i, o := range owners {
		if has(o.types, name) {
			return name, i
		}
	}
	return name, -1
}

func deref(typ types.Type) types.Type {
	if p, ok := typ.(*types.Pointer); ok {
		return p.Elem()
	}
	return typ
}

func TestLayers_EveryFileHasALayer(t *testing.T) {
	for _, name := range sourceFiles(t) {
		if layerOf(name) < 0 {
			t.Errorf("%s is in no layer", name)
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
					t.Errorf("%s imports %s, which it has no business with", name, path)
				}
			}
		}
	}
}

func checkPackage(t *testing.T, fset *token.FileSet, files []*ast.File) *types.Info {
	t.Helper()
	info := &types.Info{
		Uses:       make(map[*ast.Ident]types.Object),
		Selections: make(map[*ast.SelectorExpr]*types.Selection),
	}
	conf := types.Config{Importer: importer.Default()}
	if _, err := conf.Check("example.com/websocket", fset, files, info); err != nil {
		t.Fatal(err)
	}
	return info
}

func isOurs(obj types.Object) bool {
	return obj.Pos().IsValid() && obj.Pkg() != nil && obj.Pkg().Path() == "example.com/websocket"
}

// parsePackage parses the files that are built on this system.
func parsePackage(t *testing.T) (*token.FileSet, []*ast.File) {
	t.Helper()
	pkg, err := build.ImportDir(".", 0)
	must(t, err)
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range pkg.GoFiles {
		file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		must(t, err)
		files = append(files, file)
	}
	return fset, files
}

// sourceFiles returns the names of the files of every system, without the tests.
func sourceFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(".")
	must(t, err)
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
	must(t, err)
	var paths []string
	for _, spec := range file.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		must(t, err)
		paths = append(paths, path)
	}
	return paths
}

func fileOf(fset *token.FileSet, pos token.Pos) string {
	return filepath.Base(fset.Position(pos).Filename)
}

// layerOf returns the index of the layer of a file, or -1.
func layerOf(name string) int {
	for i, layer := range layers {
		if has(layer.files, name) {
			return i
		}
	}
	return -1
}

func mayUse(from, to int) bool {
	return from == to || from >= 0 && to >= 0 && has(layers[from].below, layers[to].name)
}

func has(list, name string) bool { return slices.Contains(strings.Fields(list), name) }
