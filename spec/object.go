package spec

import (
	"bytes"
	"encoding/base64"
	"iter"
	"strings"
)

// This file reads and edits objects that are in canonical form already. None of
// it allocates for reading, none checks what the canonical writer has checked,
// and none panics if the bytes are not canonical after all.

// members yields the keys, as they stand between their quotes, and the values of
// a canonical object, in order. It ends early where the text is malformed.
func members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		for i := 1; i < len(object) && object[i] == '"'; i++ {
			colon := skipString(object, i)
			if colon < 0 || colon >= len(object) || object[colon] != ':' {
				return
			}
			end := skipValue(object, colon+1)
			if end < 0 || end >= len(object) {
				return
			}
			if !yield(object[i+1:colon-1], object[colon+1:end:end]) || object[end] != ',' {
				return
			}
			i = end
		}
	}
}

// elements yields the values of a canonical array.
func elements(array []byte) iter.Seq[[]byte] {
	return func(yield func(value []byte) bool) {
		for i := 1; i < len(array) && array[i] != ']'; i++ {
			end := skipValue(array, i)
			if end <= i || end >= len(array) || !yield(array[i:end:end]) || array[end] != ',' {
				return
			}
			i = end
		}
	}
}

// get returns the value of a key, which must need no escapes; nil if absent or
// if object is no object.
func get(object []byte, key string) []byte {
	if !isObject(object) {
		return nil
	}
	for k, v := range members(object) {
		if string(k) == key {
			return v
		}
	}
	return nil
}

// getText returns the text of a member that is a string; ok is false for others.
func getText(object []byte, key string) (s string, ok bool) { return text(get(object, key)) }

// text returns what a JSON string says; ok is false if value is no string.
func text(value []byte) (s string, ok bool) {
	if !isString(value) {
		return "", false
	}
	return unquote(value[1 : len(value)-1]), true
}

func isObject(value []byte) bool { return len(value) >= 2 && value[0] == '{' }
func isArray(value []byte) bool  { return len(value) >= 2 && value[0] == '[' }
func isString(value []byte) bool { return len(value) >= 2 && value[0] == '"' }

// skipString returns the index after the string that begins at i, -1 if it has
// no end.
func skipString(b []byte, i int) int {
	start := i + 1
	for i = start; ; i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		escapes := i
		for escapes > start && b[escapes-1] == '\\' {
			escapes--
		}
		if (i-escapes)%2 == 0 {
			return i + 1
		}
	}
}

// structural marks the bytes at which skipValue has to do something.
var structural = [256]bool{'"': true, '{': true, '}': true, '[': true, ']': true}

// skipValue returns the index after the value that begins at i, -1 if it has no
// end.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
	default:
		n := bytes.IndexAny(b[i:], ",]}")
		if n < 0 {
			return len(b)
		}
		return i + n
	}
	for depth := 0; i < len(b); {
		c := b[i]
		if !structural[c] {
			i++
			continue
		}
		switch c {
		case '"':
			if i = skipString(b, i); i < 0 {
				return -1
			}
			continue
		case '{', '[':
			depth++
		default:
			depth--
		}
		if i++; depth == 0 {
			return i
		}
	}
	return -1
}

// appendMember appends one member to an object under construction: dst ends with
// its brace or with the member before. The key must need no escapes.
func appendMember(dst []byte, key string, value []byte) []byte {
	return append(appendKey(dst, key), value...)
}

// appendKey appends a comma where one is due, the quoted key and a colon.
func appendKey[K string | []byte](dst []byte, key K) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(dst, '"')
	dst = append(dst, key...)
	return append(dst, '"', ':')
}

// without appends the object without the members that drop names.
func without(dst, object []byte, drop func(key []byte) bool) []byte {
	dst = append(dst, '{')
	for k, v := range members(object) {
		if !drop(k) {
			dst = append(appendKey(dst, k), v...)
		}
	}
	return append(dst, '}')
}

// withMember returns a copy of the object in which key has the value, at the
// place where it belongs. The key is plain text and is escaped here.
func withMember(object []byte, key string, value []byte) []byte {
	quoted := appendQuoted(nil, key)
	escaped := quoted[1 : len(quoted)-1]
	dst := append(make([]byte, 0, len(object)+len(quoted)+len(value)+2), '{')
	placed := false
	for k, v := range members(object) {
		if !placed {
			order := compareKey(k, key)
			if order >= 0 {
				dst, placed = append(appendKey(dst, escaped), value...), true
			}
			if order == 0 {
				continue
			}
		}
		dst = append(appendKey(dst, k), v...)
	}
	if !placed {
		dst = append(appendKey(dst, escaped), value...)
	}
	return append(dst, '}')
}

// compareKey compares a key, as it stands between its quotes, with plain text.
func compareKey(k []byte, key string) int {
	switch {
	case bytes.IndexByte(k, '\\') >= 0:
		return strings.Compare(unquote(k), key)
	case string(k) < key:
		return -1
	case string(k) > key:
		return 1
	}
	return 0
}

// decodeBase64 takes both alphabets, with and without padding.
// Spec: appendices#unpadded-base64
func decodeBase64(s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	if strings.ContainsAny(s, "-_") {
		return base64.RawURLEncoding.DecodeString(s)
	}
	return base64.RawStdEncoding.DecodeString(s)
}
