package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxNesting bounds how deep arrays and objects may lie in each other. The
// specification has no limit; this one keeps the stack small and is far beyond
// what other implementations can read.
const maxNesting = 1000

// maxSafeInteger is the largest integer of Canonical JSON.
// Spec: appendices#canonical-json
const maxSafeInteger = 1<<53 - 1

// numbers says which number tokens the canonical writer takes.
type numbers uint8

const (
	// numbersWhole takes any token whose value is an integer in the safe range,
	// "1e10" and "2.0" too, and writes it as that integer.
	numbersWhole numbers = iota
	// numbersInteger takes only tokens without fraction and exponent: events of
	// room versions 6 and later. Spec: rooms/v6#canonical-json
	numbersInteger
	// numbersLegacy takes all: integers of any size as they are, floats in the
	// shortest form that reads back the same. Spec: rooms/v1#canonical-json
	numbersLegacy
)

// Canonical returns the canonical form of one JSON value. Errors: anything that
// is not JSON, duplicate keys, text that is not UTF-8, lone surrogates, numbers
// that are no integers in ±(2^53-1), nesting deeper than 1000.
// Spec: appendices#canonical-json
func Canonical(raw []byte) ([]byte, error) {
	return canonical(raw, numbersWhole)
}

// CanonicalLegacy is Canonical for what was made before the strict rules: room
// versions 1 to 5, and requests that may contain such events. Numbers are not
// limited, and of duplicate keys the last one counts.
// Spec: rooms/v1#canonical-json
func CanonicalLegacy(raw []byte) ([]byte, error) {
	return canonical(raw, numbersLegacy)
}

// MarshalCanonical encodes a Go value as package encoding/json does and brings
// that into canonical form. Errors are those of both.
func MarshalCanonical(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return Canonical(raw)
}

// canonical returns a new slice.
func canonical(raw []byte, mode numbers) ([]byte, error) {
	w := canonWriter{in: raw, numbers: mode, out: make([]byte, 0, len(raw))}
	w.space()
	if err := w.value(); err != nil {
		return nil, err
	}
	if w.space(); w.pos != len(w.in) {
		return nil, w.fail("something follows the value")
	}
	return w.finish(), nil
}

// canonWriter reads JSON once from front to back and writes each token in its
// canonical form. Objects whose keys arrive in order, as they do from nearly all
// servers, are then done. The others are noted, and finish copies the output
// once more in the right order; so the work is linear however deep they nest.
type canonWriter struct {
	in      []byte
	pos     int
	out     []byte
	depth   int
	numbers numbers
	members []member   // stack: those of the objects that are open
	mixed   []mixedObj // objects to be put in order, by start
	sorted  []member   // the members of mixed, each object's in order
}

// member is one key and its value in the output, from the key's opening quote.
type member struct {
	start, keyEnd, end int
	escaped            bool // the key has a backslash
}

// mixedObj is an object in the output that needs reordering: out[start:end] with
// the braces, and sorted[first:last] its members in their final order.
type mixedObj struct{ start, end, first, last int }

func (w *canonWriter) fail(format string, a ...any) error {
	return fmt.Errorf("JSON, byte %d: "+format, append([]any{w.pos}, a...)...)
}

func (w *canonWriter) space() {
	for w.pos < len(w.in) {
		switch w.in[w.pos] {
		case ' ', '\t', '\n', '\r':
			w.pos++
		default:
			return
		}
	}
}

// peek returns the next byte, 0 at the end.
func (w *canonWriter) peek() byte {
	if w.pos < len(w.in) {
		return w.in[w.pos]
	}
	return 0
}

func (w *canonWriter) value() error {
	switch c := w.peek(); {
	case c == '"':
		_, err := w.str()
		return err
	case c == '{':
		return w.object()
	case c == '[':
		return w.array()
	case c == '-' || '0' <= c && c <= '9':
		return w.number()
	case c == 't':
		return w.word("true")
	case c == 'f':
		return w.word("false")
	case c == 'n':
		return w.word("null")
	case w.pos >= len(w.in):
		return w.fail("unexpected end")
	}
	return w.fail("unexpected %q", w.in[w.pos])
}

func (w *canonWriter) word(s string) error {
	if !bytes.HasPrefix(w.in[w.pos:], []byte(s)) {
		return w.fail("unknown word")
	}
	w.pos += len(s)
	w.out = append(w.out, s...)
	return nil
}

// enter opens an array or object.
func (w *canonWriter) enter(c byte) error {
	if w.depth++; w.depth > maxNesting {
		return w.fail("nested deeper than %d", maxNesting)
	}
	w.pos++
	w.out = append(w.out, c)
	w.space()
	return nil
}

// leave closes an array or object at the byte under pos.
func (w *canonWriter) leave() {
	w.out = append(w.out, w.in[w.pos])
	w.pos++
	w.depth--
}

func (w *canonWriter) array() error {
	if err := w.enter('['); err != nil {
		return err
	}
	if w.peek() == ']' {
		w.leave()
		return nil
	}
	for {
		if err := w.value(); err != nil {
			return err
		}
		w.space()
		switch w.peek() {
		case ']':
			w.leave()
			return nil
		case ',':
			w.out = append(w.out, ',')
			w.pos++
			w.space()
		default:
			return w.fail("expected , or ] in an array")
		}
	}
}

func (w *canonWriter) object() error {
	start, base := len(w.out), len(w.members)
	if err := w.enter('{'); err != nil {
		return err
	}
	if w.peek() == '}' {
		w.leave()
		return nil
	}
	inOrder := true
	for {
		m, err := w.member()
		if err != nil {
			return err
		}
		if n := len(w.members); n > base && inOrder {
			inOrder = w.compareKeys(w.members[n-1], m) < 0
		}
		w.members = append(w.members, m)
		w.space()
		if c := w.peek(); c == '}' {
			break
		} else if c != ',' {
			return w.fail("expected , or } in an object")
		}
		w.out = append(w.out, ',')
		w.pos++
		w.space()
	}
	w.leave()
	if !inOrder {
		if err := w.noteMixed(start, w.members[base:]); err != nil {
			return err
		}
	}
	w.members = w.members[:base]
	return nil
}

func (w *canonWriter) member() (m member, err error) {
	if w.peek() != '"' {
		return m, w.fail("expected a key")
	}
	m.start = len(w.out)
	if m.escaped, err = w.str(); err != nil {
		return m, err
	}
	m.keyEnd = len(w.out)
	w.space()
	if w.peek() != ':' {
		return m, w.fail("expected : after a key")
	}
	w.pos++
	w.out = append(w.out, ':')
	w.space()
	err = w.value()
	m.end = len(w.out)
	return m, err
}

// noteMixed sorts the members of the object that ends here and notes it for
// finish. Of equal keys only the last stays, in legacy mode; else it is an error.
func (w *canonWriter) noteMixed(start int, members []member) error {
	slices.SortStableFunc(members, w.compareKeys)
	first := len(w.sorted)
	for i, m := range members {
		if i+1 < len(members) && w.compareKeys(m, members[i+1]) == 0 {
			if w.numbers != numbersLegacy {
				return w.fail("duplicate key %s", clip(string(w.out[m.start:m.keyEnd])))
			}
			continue
		}
		w.sorted = append(w.sorted, m)
	}
	w.mixed = append(w.mixed, mixedObj{start, len(w.out), first, len(w.sorted)})
	return nil
}

func (w *canonWriter) compareKeys(a, b member) int {
	x, y := w.out[a.start+1:a.keyEnd-1], w.out[b.start+1:b.keyEnd-1]
	if a.escaped || b.escaped {
		// An escape sorts by the character that it stands for.
		return strings.Compare(unquote(x), unquote(y))
	}
	// The order of UTF-8 bytes is that of code points.
	return bytes.Compare(x, y)
}

// finish returns the output with all objects in order.
func (w *canonWriter) finish() []byte {
	if len(w.mixed) == 0 {
		return w.out
	}
	slices.SortFunc(w.mixed, func(a, b mixedObj) int { return a.start - b.start })
	return w.reorder(make([]byte, 0, len(w.out)), 0, len(w.out))
}

// reorder appends out[from:to] to dst with the mixed objects in it in order.
func (w *canonWriter) reorder(dst []byte, from, to int) []byte {
	for {
		i, _ := slices.BinarySearchFunc(w.mixed, from, func(m mixedObj, at int) int { return m.start - at })
		if i == len(w.mixed) || w.mixed[i].start >= to {
			return append(dst, w.out[from:to]...)
		}
		m := w.mixed[i]
		dst = append(dst, w.out[from:m.start]...)
		dst = append(dst, '{')
		for j, member := range w.sorted[m.first:m.last] {
			if j > 0 {
				dst = append(dst, ',')
			}
			dst = w.reorder(dst, member.start, member.end)
		}
		dst = append(dst, '}')
		from = m.end
	}
}

// plain marks the bytes that stand in a canonical string as they are and need no
// look at UTF-8.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// str copies a string and reports whether its canonical form has a backslash.
func (w *canonWriter) str() (escaped bool, err error) {
	in, i := w.in, w.pos+1
	for i < len(in) && plain[in[i]] {
		i++
	}
	w.out = append(w.out, in[w.pos:i]...)
	for w.pos = i; w.pos < len(in); {
		switch c := in[w.pos]; {
		case c == '"':
			w.pos++
			w.out = append(w.out, '"')
			return escaped, nil
		case c == '\\':
			before := len(w.out)
			if err := w.escape(); err != nil {
				return false, err
			}
			escaped = escaped || w.out[before] == '\\'
		case c < 0x20:
			return false, w.fail("control character in a string")
		case c < utf8.RuneSelf:
			i := w.pos
			for i < len(in) && plain[in[i]] {
				i++
			}
			w.out = append(w.out, in[w.pos:i]...)
			w.pos = i
		default:
			r, size := utf8.DecodeRune(in[w.pos:])
			if r == utf8.RuneError && size == 1 {
				return false, w.fail("not UTF-8")
			}
			w.out = append(w.out, in[w.pos:w.pos+size]...)
			w.pos += size
		}
	}
	return false, w.fail("string without end")
}

// escape reads one escape sequence, or the two of a surrogate pair.
func (w *canonWriter) escape() error {
	if w.pos+1 >= len(w.in) {
		return w.fail("string without end")
	}
	c := w.in[w.pos+1]
	if c == 'u' {
		return w.unicodeEscape()
	}
	switch c {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		w.out = append(w.out, '\\', c)
	case '/':
		w.out = append(w.out, '/')
	default:
		return w.fail("unknown escape")
	}
	w.pos += 2
	return nil
}

func (w *canonWriter) unicodeEscape() error {
	r, ok := hex4(w.in[w.pos+2:])
	if !ok {
		return w.fail(`\u needs four hexadecimal digits`)
	}
	if 0xD800 <= r && r < 0xE000 {
		rest := w.in[w.pos+6:]
		low, ok := rune(0), false
		if len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
			low, ok = hex4(rest[2:])
		}
		if !ok || r >= 0xDC00 || low < 0xDC00 || low >= 0xE000 {
			return w.fail("lone surrogate")
		}
		r = (r-0xD800)<<10 + (low - 0xDC00) + 0x10000
		w.pos += 6
	}
	w.pos += 6
	w.out = appendRune(w.out, r)
	return nil
}

// hex4 reads four hexadecimal digits.
func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 + rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 + rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// appendRune appends one character as it stands in a canonical string.
func appendRune(dst []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(dst, '\\', byte(r))
	case r >= 0x20:
		return utf8.AppendRune(dst, r)
	}
	if short := "\b\t\n\f\r"; strings.ContainsRune(short, r) {
		return append(dst, '\\', "btnfr"[strings.IndexByte(short, byte(r))])
	}
	const digits = "0123456789abcdef"
	return append(dst, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
}

// appendQuoted appends s, which must be UTF-8, as a canonical JSON string.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' {
			dst = append(dst, s[from:i]...)
			dst = appendRune(dst, rune(c))
			from = i + 1
		}
	}
	return append(append(dst, s[from:]...), '"')
}

// unquote returns the text of a canonical string, given without its quotes.
func unquote(b []byte) string {
	i := bytes.IndexByte(b, '\\')
	if i < 0 {
		return string(b)
	}
	text := append(make([]byte, 0, len(b)), b[:i]...)
	for ; i < len(b); i++ {
		if b[i] != '\\' {
			text = append(text, b[i])
			continue
		}
		i++
		if b[i] == 'u' {
			r, _ := hex4(b[i+1:]) // a control character: no pairs here
			text = utf8.AppendRune(text, r)
			i += 4
		} else if j := strings.IndexByte("btnfr", b[i]); j >= 0 {
			text = append(text, "\b\t\n\f\r"[j])
		} else {
			text = append(text, b[i])
		}
	}
	return string(text)
}

// number copies a number in the form that the mode asks for.
func (w *canonWriter) number() error {
	start := w.pos
	whole, err := w.scanNumber()
	if err != nil {
		return err
	}
	token := string(w.in[start:w.pos])
	switch {
	case token == "-0":
		w.out = append(w.out, '0')
	case whole && len(token) <= 15: // cannot exceed 2^53
		w.out = append(w.out, token...)
	case w.numbers == numbersLegacy:
		return w.legacyNumber(token, whole)
	case !whole && w.numbers == numbersInteger:
		return w.fail("number %s is not an integer", clip(token))
	default:
		return w.wholeNumber(token)
	}
	return nil
}

// wholeNumber writes the integer in the safe range that the token stands for. A
// fraction may have zeros only and an exponent no minus, so that the value is an
// integer for sure and floats below 2^53 hold it exactly.
func (w *canonWriter) wholeNumber(token string) error {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(token), "e")
	_, fraction, _ := strings.Cut(mantissa, ".")
	f, err := strconv.ParseFloat(token, 64)
	if err != nil || math.Abs(f) > maxSafeInteger ||
		strings.Trim(fraction, "0") != "" || strings.HasPrefix(exponent, "-") {
		return w.fail("number %s is not an integer in ±(2^53-1)", clip(token))
	}
	w.out = strconv.AppendInt(w.out, int64(f), 10)
	return nil
}

// legacyNumber writes integers as they are and floats as Python's repr does,
// which is what the servers that signed them used: an exponent of two digits
// below 1e-4 and from 1e16 on, else a point with at least one digit after it.
func (w *canonWriter) legacyNumber(token string, whole bool) error {
	if whole {
		w.out = append(w.out, token...)
		return nil
	}
	f, err := strconv.ParseFloat(token, 64)
	if err != nil {
		return w.fail("number %s is too large", clip(token))
	}
	if abs := math.Abs(f); abs != 0 && (abs < 1e-4 || abs >= 1e16) {
		w.out = strconv.AppendFloat(w.out, f, 'e', -1, 64)
		return nil
	}
	w.out = strconv.AppendFloat(w.out, f, 'f', -1, 64)
	if f == math.Trunc(f) {
		w.out = append(w.out, ".0"...)
	}
	return nil
}

// scanNumber moves past a number and reports whether it has neither a fraction
// nor an exponent.
func (w *canonWriter) scanNumber() (whole bool, err error) {
	if w.peek() == '-' {
		w.pos++
	}
	switch c := w.peek(); {
	case c == '0':
		w.pos++
	case '1' <= c && c <= '9':
		w.digits()
	default:
		return false, w.fail("number without digits")
	}
	whole = true
	if w.peek() == '.' {
		whole = false
		w.pos++
		if !w.digits() {
			return false, w.fail("number without digits after the point")
		}
	}
	if w.peek()|0x20 == 'e' {
		whole = false
		if w.pos++; w.peek() == '+' || w.peek() == '-' {
			w.pos++
		}
		if !w.digits() {
			return false, w.fail("number without digits in the exponent")
		}
	}
	return whole, nil
}

func (w *canonWriter) digits() (some bool) {
	start := w.pos
	for c := w.peek(); '0' <= c && c <= '9'; c = w.peek() {
		w.pos++
	}
	return w.pos > start
}
