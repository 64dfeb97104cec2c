//go:build !js

package websocket_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/doc"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// fragmentImports are the packages that fragments in README.md may use without importing them.
var fragmentImports = []string{
	"bufio", "context", "crypto/tls", "crypto/x509", "errors", "example.com/websocket", "expvar", "fmt", "log", "net",
	"net/http", "net/http/httptest", "testing", "testing/synctest", "time",
}

// A snippet is a block of Go in README.md. A comment on the line above a fragment says how it is compiled:
//
//	<!-- vars: c *websocket.Conn; err error -->   with these package variables
//	<!-- from: examples/reconnect/session.go -->  as a part of this file, which another test compiles
type snippet struct {
	line      int // of its first line
	directive string
	code      string
}

func readmeSnippets(t *testing.T) []snippet {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return goSnippets(string(readme))
}

func goSnippets(markdown string) []snippet {
	var found []snippet
	var inside *snippet
	above := ""
	for n, line := range strings.Split(markdown, "\n") {
		switch {
		case inside == nil && line == "```go":
			inside = &snippet{line: n + 2, directive: above}
		case inside != nil && line == "```":
			found = append(found, *inside)
			inside = nil
		case inside != nil:
			inside.code += line + "\n"
		}
		above = line
	}
	return found
}

// value returns the text after the key in the directive.
func (s snippet) value(key string) (string, bool) {
	text, ok := strings.CutPrefix(s.directive, "<!-- "+key+": ")
	return strings.TrimSuffix(text, " -->"), ok
}

// source makes a file of s: a program is one, declarations get a package clause, and statements a function.
func (s snippet) source() (src string, fragment bool) {
	if strings.HasPrefix(s.code, "package ") {
		return s.code, false
	}
	position := fmt.Sprintf("//line README.md:%d\n", s.line)
	body := position + s.code
	if _, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+s.code, parser.SkipObjectResolution); err != nil {
		body = "func _() {\n" + position + s.code + "}\n"
	}
	header := ""
	if vars, ok := s.value("vars"); ok {
		header = "var (" + vars + ")\n"
	}
	imports := ""
	for _, name := range fragmentImports {
		if strings.Contains(header+body, path.Base(name)+".") {
			imports += "import " + strconv.Quote(name) + "\n"
		}
	}
	return "package p\n" + imports + header + body, true
}

// check type-checks s. A fragment may leave variables and imports unused.
func (s snippet) check(fset *token.FileSet, imp types.Importer) error {
	src, fragment := s.source()
	file, err := parser.ParseFile(fset, "README.md", src, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	var first error
	conf := types.Config{Importer: imp, Error: func(err error) {
		if e, ok := err.(types.Error); first == nil && !(ok && e.Soft && fragment) {
			first = err
		}
	}}
	conf.Check("p", fset, []*ast.File{file}, nil) // reports to Error
	return first
}

// exportData returns an importer for the compiled packages that README.md uses.
func exportData(t *testing.T, fset *token.FileSet) types.Importer {
	t.Helper()
	args := append([]string{"list", "-export", "-f", "{{.ImportPath}}\t{{.Export}}"}, fragmentImports...)
	list := exec.CommandContext(t.Context(), "go", args...)
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	files := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		name, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		files[name] = file
	}
	return importer.ForCompiler(fset, "gc", func(name string) (io.ReadCloser, error) {
		if file := files[name]; file != "" {
			return os.Open(file)
		}
		return nil, fmt.Errorf("%s is not among %v", name, slices.Sorted(maps.Keys(files)))
	})
}

func TestReadme_SnippetsCompile(t *testing.T) {
	fset := token.NewFileSet()
	imp := exportData(t, fset)
	snippets := readmeSnippets(t)
	if len(snippets) < 10 {
		t.Errorf("only %d snippets found", len(snippets))
	}
	for _, s := range snippets {
		if name, ok := s.value("from"); ok {
			if err := s.isIn(name); err != nil {
				t.Errorf("README.md:%d: %v", s.line, err)
			}
		} else if err := s.check(fset, imp); err != nil {
			t.Errorf("the snippet at README.md:%d: %v", s.line, err)
		}
	}
}

// isIn reports whether the file has the lines of s, however they are indented.
func (s snippet) isIn(name string) error {
	file, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if !strings.Contains(unindent(string(file)), "\n"+unindent(s.code)) {
		return fmt.Errorf("the snippet is not in %s", name)
	}
	return nil
}

func unindent(text string) string {
	var flat strings.Builder
	for line := range strings.Lines(text) {
		flat.WriteString(strings.TrimLeft(line, "\t"))
	}
	return flat.String()
}

// The check finds snippets that do not compile.
func TestReadme_WrongSnippetsAreFound(t *testing.T) {
	fset := token.NewFileSet()
	imp := exportData(t, fset)
	for markdown, compiles := range map[string]bool{
		"<!-- vars: c *websocket.Conn -->\n```go\nc.CloseNow()\n```\n":     true,
		"<!-- vars: c *websocket.Conn -->\n```go\nc.CloseSoon()\n```\n":    false,
		"<!-- vars: c *websocket.Conn -->\n```go\nc.Close(1000)\n```\n":    false,
		"```go\nc.CloseNow()\n```\n":                                       false,
		"```go\nopts := &websocket.Options{KeepAlive: time.Second}\n```\n": true,
		"```go\nopts := &websocket.Options{KeepAlife: time.Second}\n```\n": false,
		"```go\nfor {\n```\n": false,
		"```go\nfunc f(c *websocket.Conn) error {\n\treturn c.CloseNow()\n}\n```\n":             true,
		"```go\nfunc f(c *websocket.Conn) error {\n\tc.CloseNow()\n}\n```\n":                    false,
		"```go\npackage main\n\nimport \"log\"\n\nfunc main() { log.Print() }\n```\n":           true,
		"```go\npackage main\n\nimport \"log\"\n\nfunc main() {}\n```\n":                        false,
		"```go\npackage main\n\nimport \"example.org/none\"\n\nfunc main() { none.F() }\n```\n": false,
	} {
		snippets := goSnippets(markdown)
		if len(snippets) != 1 {
			t.Fatalf("%d snippets in %q", len(snippets), markdown)
		}
		if err := snippets[0].check(fset, imp); (err == nil) != compiles {
			t.Errorf("%q: %v", markdown, err)
		}
	}
	if err := (snippet{code: "no such line\n"}).isIn("README.md"); err == nil {
		t.Error("a text that is not in the file was found")
	}
}

// Each exported function and method has an example that is run. One example is enough for all methods of an error.
func TestExamples_CoverTheExportedFunctions(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	missing, run := make(map[string]bool), make(map[string]bool)
	for _, name := range names {
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") {
			for _, e := range doc.Examples(file) {
				run[e.Name] = e.Output != ""
			}
			continue
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				missing[exampleName(f)] = true
			}
		}
	}
	delete(missing, "") // functions that are not exported
	if len(missing) < 30 {
		t.Errorf("only %d exported functions found", len(missing))
	}
	maps.DeleteFunc(missing, func(name string, _ bool) bool { return run[name] })
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		t.Errorf("no func Example%s with an output", name)
	}
}

// exampleName returns the name of the example of f without the word Example, or "" if f is not exported.
func exampleName(f *ast.FuncDecl) string {
	if !f.Name.IsExported() {
		return ""
	}
	if f.Recv == nil {
		return f.Name.Name
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	recv, ok := typ.(*ast.Ident)
	switch {
	case !ok || !recv.IsExported():
		return ""
	case slices.Contains([]string{"Error", "Is", "Unwrap"}, f.Name.Name):
		return recv.Name
	}
	return recv.Name + "_" + f.Name.Name
}
