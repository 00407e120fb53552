package spec

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// pushGlob is a pattern of push rules, in which * stands for any characters, also
// none, and ? for exactly one. Case does not count, by Unicode's simple folding.
// Spec: appendices#glob-style-matching
type pushGlob struct {
	parts [][]rune // what stands between the stars, folded; anyRune for ?
}

// anyRune is ? in a pushGlob.
const anyRune rune = -1

func newPushGlob(pattern string) pushGlob {
	g := pushGlob{parts: [][]rune{nil}}
	for _, r := range pattern {
		last := &g.parts[len(g.parts)-1]
		switch r {
		case '*':
			g.parts = append(g.parts, nil)
		case '?':
			*last = append(*last, anyRune)
		default:
			*last = append(*last, foldRune(r))
		}
	}
	return g
}

// newPushWord is the pattern that is this text and nothing else.
func newPushWord(text string) pushGlob {
	var part []rune
	for _, r := range text {
		part = append(part, foldRune(r))
	}
	return pushGlob{parts: [][]rune{part}}
}

// foldRune returns the same for characters that differ in case only.
func foldRune(r rune) rune {
	if r < utf8.RuneSelf {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}
	least := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		least = min(least, next)
	}
	if least < utf8.RuneSelf { // the Kelvin sign is a k, and ſ an s
		return foldRune(least)
	}
	return least
}

// matches tells whether the pattern is all of s.
func (g pushGlob) matches(s []byte) bool {
	if len(g.parts) == 1 {
		return partAt(g.parts[0], s, 0) == len(s)
	}
	return g.match(s, func(at int) bool { return at == 0 }, func(at int) bool { return at == len(s) })
}

// matchesWords tells whether the pattern is a part of s that begins and ends at
// word boundaries: everywhere but between two of A-Z, a-z, 0-9 and _.
// Spec: client-server-api#conditions-1
func (g pushGlob) matchesWords(s []byte) bool {
	boundary := func(at int) bool {
		return at == 0 || at == len(s) || !isWordByte(s[at-1]) || !isWordByte(s[at])
	}
	return g.match(s, boundary, boundary)
}

func isWordByte(c byte) bool { return isAlnum(c) || c == '_' }

// match finds the pattern in s from a place where it may begin to one where it
// may end. Each part is taken where it first fits, which leaves the most to the
// parts after it; so the time is the product of the lengths at worst.
func (g pushGlob) match(s []byte, mayBegin, mayEnd func(at int) bool) bool {
	at, last := 0, len(g.parts)-1
	anywhere := func(int) bool { return true }
	for i, part := range g.parts {
		begin, end := anywhere, anywhere
		if i == 0 {
			begin = mayBegin
		}
		if i == last {
			end = mayEnd
		}
		if at = findPart(part, s, at, begin, end); at < 0 {
			return false
		}
	}
	return true
}

// findPart returns where the first occurrence of the part at or after from ends,
// among those that begin and end where they may; -1 if there is none.
func findPart(part []rune, s []byte, from int, mayBegin, mayEnd func(at int) bool) int {
	for at := from; ; {
		// Most places are passed by for their first character alone.
		if len(part) > 0 && part[0] != anyRune && at < len(s) && s[at] < utf8.RuneSelf && foldRune(rune(s[at])) != part[0] {
			at++
			continue
		}
		if mayBegin(at) {
			if end := partAt(part, s, at); end >= 0 && mayEnd(end) {
				return end
			}
		}
		if at >= len(s) {
			return -1
		}
		_, size := utf8.DecodeRune(s[at:])
		at += size
	}
}

// partAt returns where the part ends if it stands at this place, else -1.
func partAt(part []rune, s []byte, at int) int {
	for _, want := range part {
		if at >= len(s) {
			return -1
		}
		r, size := rune(s[at]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRune(s[at:])
		}
		if want != anyRune && foldRune(r) != want {
			return -1
		}
		at += size
	}
	return at
}

// textBytes is text without a copy where the string has no escapes.
func textBytes(value []byte) (s []byte, ok bool) {
	if !isString(value) {
		return nil, false
	}
	s = value[1 : len(value)-1]
	if bytes.IndexByte(s, '\\') >= 0 {
		s = []byte(unquote(s))
	}
	return s, true
}
