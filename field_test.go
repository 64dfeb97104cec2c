package websocket

import (
	"mime"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestField_TokenChars(t *testing.T) {
	for b := range 256 {
		// RFC 9110, section 5.6.2: any VCHAR, except delimiters.
		want := b > ' ' && b < 0x7f && !strings.ContainsRune("\"(),/:;<=>?@[\\]{}", rune(b))
		if isTokenChar(byte(b)) != want {
			t.Errorf("byte %#x: %v, want %v", b, !want, want)
		}
	}
}

// Only ASCII letters have case: U+017F and U+212A fold to s and k elsewhere.
func TestField_FoldsASCIIOnly(t *testing.T) {
	for a := range 256 {
		for b := range 256 {
			want := a == b || a < 0x80 && b < 0x80 && strings.EqualFold(string(rune(a)), string(rune(b)))
			if got := equalFold(string([]byte{byte(a)}), string([]byte{byte(b)})); got != want {
				t.Errorf("%#x and %#x: %v", a, b, got)
			}
		}
	}
	if equalFold("websocket", "web\u017focket") || equalFold("a", "aa") {
		t.Error("letters beyond ASCII, or lengths, are equal")
	}
}

// Empty elements of a list do not count (RFC 9110, section 5.6.1.2).
func TestField_Elements(t *testing.T) {
	for _, tt := range []struct {
		values []string
		want   []string
	}{
		{nil, nil},
		{[]string{""}, nil},
		{[]string{","}, nil},
		{[]string{",,", " \t ", ", ,"}, nil},
		{[]string{"a"}, []string{"a"}},
		{[]string{" a ,\tb\t, ,c"}, []string{"a", "b", "c"}},
		{[]string{"a,", ",b"}, []string{"a", "b"}},
		{[]string{"a b"}, []string{"a b"}},
		{[]string{strings.Repeat("a", 64<<10)}, []string{strings.Repeat("a", 64<<10)}},
	} {
		if got := slices.Collect(elements(tt.values)); !slices.Equal(got, tt.want) {
			t.Errorf("%.40q: %.40q, want %.40q", tt.values, got, tt.want)
		}
	}
}

// The grammar of RFC 6455, section 9.1.
func TestField_Extensions(t *testing.T) {
	none := []extensionParam(nil)
	for _, tt := range []struct {
		name  string
		value []string
		want  []extension
		ok    bool
	}{
		{"absent", nil, nil, true},
		{"one", []string{"foo"}, []extension{{"foo", none}}, true},
		{"two", []string{"foo,bar"}, []extension{{"foo", none}, {"bar", none}}, true},
		{"two in two fields", []string{"foo", "bar"}, []extension{{"foo", none}, {"bar", none}}, true},
		{"empty elements", []string{", foo,,\tbar ,"}, []extension{{"foo", none}, {"bar", none}}, true},
		{"a field of empty elements beside another", []string{",", "foo"}, []extension{{"foo", none}}, true},
		{"parameter", []string{"foo;bar"}, []extension{{"foo", []extensionParam{{"bar", "", false}}}}, true},
		{"value", []string{"foo;bar=baz"}, []extension{{"foo", []extensionParam{{"bar", "baz", true}}}}, true},
		{"quoted value", []string{`foo;bar="baz"`}, []extension{{"foo", []extensionParam{{"bar", "baz", true}}}}, true},
		{"quoted value with an escape", []string{`foo;bar="b\az"`}, []extension{{"foo", []extensionParam{{"bar", "baz", true}}}}, true},
		{"spaces", []string{" foo ; bar = baz ; x , y "}, []extension{{"foo", []extensionParam{{"bar", "baz", true}, {"x", "", false}}}, {"y", none}}, true},
		{"the example of the RFC", []string{"mux; max-channels=4; flow-control, deflate-stream"}, []extension{
			{"mux", []extensionParam{{"max-channels", "4", true}, {"flow-control", "", false}}}, {"deflate-stream", none}}, true},

		{"empty", []string{""}, nil, false},
		{"spaces only", []string{" \t"}, nil, false},
		{"commas only", []string{",,"}, nil, false},
		{"semicolon", []string{";"}, nil, false},
		{"no parameter after a semicolon", []string{"foo;"}, nil, false},
		{"two semicolons", []string{"foo;;bar"}, nil, false},
		{"no comma", []string{"foo bar"}, nil, false},
		{"no comma after a quoted value", []string{`foo;a="b"c`}, nil, false},
		{"value without a name", []string{"foo;=x"}, nil, false},
		{"value of an extension", []string{"foo=x"}, nil, false},
		{"empty value", []string{"foo;bar="}, nil, false},
		{"empty quoted value", []string{`foo;bar=""`}, nil, false},
		{"quoted value that is not a token", []string{`foo;bar="a b"`}, nil, false},
		{"quoted value with an escaped quote", []string{`foo;bar="a\"b"`}, nil, false},
		{"quoted value without an end", []string{`foo;bar="baz`}, nil, false},
		{"quoted value with an escaped end", []string{`foo;bar="baz\`}, nil, false},
		{"quoted name", []string{`"foo"`}, nil, false},
		{"byte above ASCII", []string{"f\u00f6o"}, nil, false},
		{"malformed after a good one", []string{"foo", "bar;"}, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseExtensions(tt.value, "")
			if ok != tt.ok || ok && !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%q: %v, %v; want %v, %v", tt.value, got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestField_ExtensionsOfOneName(t *testing.T) {
	got, ok := parseExtensions([]string{"foo, Bar;x, baz, bar"}, "bar")
	want := []extension{{"Bar", []extensionParam{{"x", "", false}}}, {"bar", nil}}
	if !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, ok, want)
	}
}

// longLists are 64 KiB each.
var longLists = func() []string {
	const size = 64 << 10
	repeat := func(s string) string { return strings.Repeat(s, size/len(s)) }
	return []string{
		repeat("a, "), repeat(","), repeat(" "), repeat("a"), repeat("\t,"), "a" + repeat(";a"), "a" + repeat(";a=b"), "a" + repeat(`;a="b"`),
		`a;b="` + repeat("a"), `a;b="` + repeat(`\a`) + `"`, repeat(`"`), repeat("="), repeat(";"), repeat(`\`), repeat("permessage-deflate,"),
	}
}()

// Long lists are parsed, and the memory kept for them is bounded by their length.
func TestField_LongLists(t *testing.T) {
	for _, s := range longLists {
		got, _ := parseExtensions([]string{s}, "permessage-deflate")
		for _, e := range got {
			if len(e.params) > maxParams {
				t.Errorf("%.20q: %d parameters were kept", s, len(e.params))
			}
		}
		if len(got) > len(s)/len("permessage-deflate") {
			t.Errorf("%.20q: %d elements were kept", s, len(got))
		}
		hasToken([]string{s}, "upgrade")
		isTokenList([]string{s})
	}
}

// Each list of 64 KiB takes less than a millisecond.
func BenchmarkFieldLists(b *testing.B) {
	for _, s := range longLists {
		values := []string{s}
		b.Run("extensions/"+s[:8], func(b *testing.B) {
			for b.Loop() {
				parseExtensions(values, "permessage-deflate")
			}
		})
		b.Run("tokens/"+s[:8], func(b *testing.B) {
			for b.Loop() {
				hasToken(values, "upgrade")
			}
		})
	}
}

// A list that parses is the same after it is written and parsed again. A list without quotes has the elements that a plain
// split finds.
func FuzzFieldList(f *testing.F) {
	for _, s := range []string{"", ",", "foo", "foo;bar=baz", `foo;bar="baz", x`, "a , b;c ; d=\"e\\f\"", "foo;", `a;b="`, "a b", "permessage-deflate; client_max_window_bits"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, ok := parseExtensions([]string{s}, "")
		if !ok {
			return
		}
		again, ok := parseExtensions([]string{written(list)}, "")
		if !ok || !reflect.DeepEqual(list, again) {
			t.Errorf("%q: %v, and written again %v", s, list, again)
		}
		if !strings.ContainsAny(s, "\";") {
			if want := slices.Collect(elements([]string{s})); len(want) != len(list) || list[0].name != want[0] {
				t.Errorf("%q: %v, and split %q", s, list, want)
			}
		}
		checkByMIME(t, list)
	})
}

// written returns a list in the form that its sender would write.
func written(list []extension) string {
	var b strings.Builder
	for _, e := range list {
		b.WriteString(e.name)
		for _, p := range e.params {
			b.WriteString("; " + p.name)
			if p.hasValue {
				b.WriteString(`="` + p.value + `"`)
			}
		}
		b.WriteString(", ")
	}
	return b.String()
}

// checkByMIME compares the parameters with those that package mime finds, which refuses a repeated parameter.
func checkByMIME(t *testing.T, list []extension) {
	for _, e := range list {
		s := "a/b"
		for _, p := range e.params {
			if !p.hasValue || strings.Contains(p.name, "*") {
				return
			}
			s += "; " + p.name + "=" + p.value
		}
		_, params, err := mime.ParseMediaType(s)
		if err != nil {
			return
		}
		for _, p := range e.params {
			if params[strings.ToLower(p.name)] != p.value {
				t.Errorf("%q: %v, and in package mime %v", s, e.params, params)
			}
		}
	}
}
