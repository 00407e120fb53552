package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

func TestCanonicalVectors(t *testing.T) {
	// Spec: appendices#examples, and the rules in the text above them.
	cases := []struct{ name, in, want string }{
		{"13-042 empty object", `{}`, `{}`},
		{"13-042 white space goes", "{\n \"one\": 1,\n \"two\": \"Two\"\n}", `{"one":1,"two":"Two"}`},
		{"13-042 keys are sorted", `{ "b": "2", "a": "1" }`, `{"a":"1","b":"2"}`},
		{"13-042 sorted without white space", `{"b":"2","a":"1"}`, `{"a":"1","b":"2"}`},
		{"13-042 nested", `{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name": "John Doe", "three_pids": [{"medium": "email","address": "john.doe@example.org"},{"medium": "msisdn","address": "123456789"}]}}}`,
			`{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`},
		{"13-042 text beyond ASCII stays", `{"a": "日本語"}`, `{"a":"日本語"}`},
		{"13-042 keys sort by code point", `{"本": 2, "日": 1}`, `{"日":1,"本":2}`},
		{"13-042 escapes become text", `{"a": "\u65E5"}`, `{"a":"日"}`},
		{"13-042 null", `{"a": null}`, `{"a":null}`},
		{"13-042 negative zero and exponents", `{"a": -0, "b": 1e10}`, `{"a":0,"b":10000000000}`},
		{"keys beyond the basic plane sort by code point, not UTF-16", `{"😀":1,"ﻮ":2}`, `{"ﻮ":2,"😀":1}`},
		{"keys sort by what their escapes mean", `{"\\":1,"\"":2,"\u0041":3,"\n":4}`, `{"\n":4,"\"":2,"A":3,"\\":1}`},
		{"a prefix sorts first", `{"aa":1,"a":2,"":3}`, `{"":3,"a":2,"aa":1}`},
		{"shortest escapes", `"\u0000\u0008\u0009\u000a\u000C\u000d\u001F\u0022\u005c\u002f\/\u007f"`, `"\u0000\b\t\n\f\r\u001f\"\\//` + "\x7f\""},
		{"surrogate pairs become one character", `"\ud83d\ude00"`, `"😀"`},
		{"largest integers", `[9007199254740991,-9007199254740991]`, `[9007199254740991,-9007199254740991]`},
		{"zero fraction is an integer", `[1.0,-0.0,2.00e2,0e5]`, `[1,0,200,0]`},
		{"scalars", ` true `, `true`},
		{"objects out of order in each other", `{"b":{"y":[{"q":1,"p":2}],"x":{"n":1,"m":{"2":0,"1":0}}},"a":{"d":1,"c":2}}`,
			`{"a":{"c":2,"d":1},"b":{"x":{"m":{"1":0,"2":0},"n":1},"y":[{"p":2,"q":1}]}}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := Canonical([]byte(c.in))
			if err != nil || string(got) != c.want {
				t.Fatalf("got %s, %v\nwant %s", got, err, c.want)
			}
		})
	}
}

func TestCanonicalRefuses(t *testing.T) {
	deep := strings.Repeat("[", maxNesting+1) + strings.Repeat("]", maxNesting+1)
	cases := []struct{ name, in string }{
		{"nothing", ``}, {"white space only", ` `}, {"two values", `{} {}`}, {"20-013 byte order mark", "\ufeff{}"},
		{"20-013 trailing garbage", `{}x`}, {"20-013 duplicate keys", `{"a":1,"b":2,"a":3}`},
		{"20-013 adjacent duplicate keys", `{"a":1,"a":1}`}, {"duplicate keys by escape", `{"a":1,"\u0061":1}`},
		{"20-013 deep nesting", deep}, {"trailing comma", `{"a":1,}`}, {"trailing comma in a list", `[1,]`},
		{"missing colon", `{"a" 1}`}, {"key without quotes", `{a:1}`}, {"open object", `{"a":1`}, {"open string", `"a`},
		{"open escape", `"\`}, {"unknown escape", `"\x41"`}, {"short \\u", `"\u12"`}, {"\\u with sign", `"\u+123"`},
		{"control character in a string", "\"\n\""}, {"20-012 not UTF-8", "\"\xff\""}, {"overlong UTF-8", "\"\xc0\x80\""},
		{"surrogate in UTF-8", "\"\xed\xa0\x80\""}, {"20-016 lone high surrogate", `"\ud800"`},
		{"20-016 lone low surrogate", `"\udc00"`}, {"20-016 high surrogate then text", `"\ud800x"`},
		{"20-016 two high surrogates", `"\ud800\ud800"`}, {"18-009 float", `1.5`}, {"18-009 2^53", `9007199254740992`},
		{"18-009 -2^53", `-9007199254740992`}, {"float that rounds to an integer", `9007199254740990.9999`},
		{"huge exponent", `1e999`}, {"negative exponent", `10e-1`}, {"leading zero", `01`}, {"plus", `+1`}, {"minus alone", `-`},
		{"point without digits", `1.`}, {"exponent without digits", `1e`}, {"NaN", `NaN`}, {"Infinity", `-Infinity`},
		{"part of a word", `tru`}, {"word with a tail", `nulll`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got, err := Canonical([]byte(c.in)); err == nil {
				t.Fatalf("accepted as %s", got)
			}
		})
	}
}

func TestCanonicalLegacy(t *testing.T) {
	cases := []struct{ name, in, want string }{
		{"18-009 v1-v5 integers of any size", `[9007199254740992,-123456789012345678901234567890]`, `[9007199254740992,-123456789012345678901234567890]`},
		{"18-009 v1-v5 floats", `[1.5,1.0,100000.0,1e3,1e15,1e16,1.5e300,0.0001,0.00001,-0.0,-0]`,
			`[1.5,1.0,100000.0,1000.0,1000000000000000.0,1e+16,1.5e+300,0.0001,1e-05,-0.0,0]`},
		{"the last of duplicate keys counts", `{"b":1,"a":{"x":1},"b":{"z":1,"y":2}}`, `{"a":{"x":1},"b":{"y":2,"z":1}}`},
		{"duplicate keys alone", `{"a":1,"a":2}`, `{"a":2}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := CanonicalLegacy([]byte(c.in))
			if err != nil || string(got) != c.want {
				t.Fatalf("got %s, %v\nwant %s", got, err, c.want)
			}
		})
	}
	if got, err := CanonicalLegacy([]byte(`"\ud800"`)); err == nil {
		t.Fatalf("lone surrogate accepted as %q", got)
	}
}

func TestMarshalCanonical(t *testing.T) {
	got, err := MarshalCanonical(map[string]any{"b": "<&>", "a": []int{1}, "c": json.RawMessage(`{"y":1,"x":2}`)})
	if want := `{"a":[1],"b":"<&>","c":{"x":2,"y":1}}`; err != nil || string(got) != want {
		t.Fatalf("got %s, %v", got, err)
	}
}

// Deep objects out of order must cost linear time and stay right.
func TestCanonicalDeepReorder(t *testing.T) {
	raw, want := `0`, `0`
	for range maxNesting {
		raw, want = `{"b":`+raw+`,"a":1}`, `{"a":1,"b":`+want+`}`
	}
	got, err := Canonical([]byte(raw))
	if err != nil || string(got) != want {
		t.Fatalf("wrong order, %v", err)
	}
}

// randomValue makes JSON values with integers only.
func randomValue(r *rand.Rand, depth int) any {
	switch n := r.IntN(7); {
	case n == 0 && depth > 0:
		list := make([]any, r.IntN(4))
		for i := range list {
			list[i] = randomValue(r, depth-1)
		}
		return list
	case n <= 2 && depth > 0:
		object := map[string]any{}
		for range r.IntN(6) {
			object[randomText(r)] = randomValue(r, depth-1)
		}
		return object
	case n == 3:
		return r.Int64N(2*maxSafeInteger) - maxSafeInteger
	case n == 4:
		return []any{nil, true, false}[r.IntN(3)]
	}
	return randomText(r)
}

func randomText(r *rand.Rand) string {
	pool := []rune("abcAB\"\\/\n\x00\x1f\x7fé日ﻮ😀 ")
	text := make([]rune, r.IntN(5))
	for i := range text {
		text[i] = pool[r.IntN(len(pool))]
	}
	return string(text)
}

// Whatever the white space, order and escapes of the input: the same value gives
// the same bytes, they mean that value, and their canonical form is themselves.
func TestCanonicalProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		value := randomValue(r, 4)
		first, err := MarshalCanonical(value)
		if err != nil {
			t.Fatal(err)
		}
		indented, _ := json.MarshalIndent(value, " ", "\t")
		for _, form := range [][]byte{first, indented, shuffled(r, value)} {
			for _, fn := range []func([]byte) ([]byte, error){Canonical, CanonicalLegacy} {
				if got, err := fn(form); err != nil || !bytes.Equal(got, first) {
					t.Fatalf("%s\ngives %s, %v\nwant %s", form, got, err, first)
				}
			}
		}
		if !reflect.DeepEqual(decode(t, first), decode(t, indented)) {
			t.Fatalf("%s does not mean %s", first, indented)
		}
	}
}

func decode(t *testing.T, raw []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// shuffled writes a value with its keys in random order and strings in \u escapes.
func shuffled(r *rand.Rand, v any) []byte {
	switch v := v.(type) {
	case map[string]any:
		var parts [][]byte
		for key, value := range v { // map order is random enough
			parts = append(parts, append(append(shuffled(r, key), " : "...), shuffled(r, value)...))
		}
		return []byte("{" + string(bytes.Join(parts, []byte(" ,"))) + "}")
	case []any:
		var parts [][]byte
		for _, value := range v {
			parts = append(parts, shuffled(r, value))
		}
		return []byte("[" + string(bytes.Join(parts, []byte(" ,"))) + "]")
	case string:
		var b strings.Builder
		for _, c := range v {
			if c > 0xffff {
				c -= 0x10000
				fmt.Fprintf(&b, `\u%04x\u%04X`, 0xd800+c>>10, 0xdc00+c&0x3ff)
			} else {
				fmt.Fprintf(&b, `\u%04x`, c)
			}
		}
		return []byte(`"` + b.String() + `"`)
	}
	raw, _ := json.Marshal(v)
	return raw
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{`{}`, `{"b":{"d":1,"c":"\u65e5\ud83d\ude00"},"a":[1e3,-0,null,true]}`, `{"a":1,"a":2}`,
		`"\u0000\/"`, `[9007199254740991,1.5]`, `[[[[`, "\"\xff\"", `{"😀":1,"ﻮ":2}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		strict, err := Canonical(raw)
		if err != nil {
			return
		}
		if !json.Valid(raw) || !json.Valid(strict) {
			t.Fatalf("%q is not JSON, or became %q", raw, strict)
		}
		for _, fn := range []func([]byte) ([]byte, error){Canonical, CanonicalLegacy} {
			if again, err := fn(strict); err != nil || !bytes.Equal(again, strict) {
				t.Fatalf("%q became %q, %v", strict, again, err)
			}
		}
	})
}
