package storage

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// This file says how values travel to and from PostgreSQL. Numbers of single
// parameters go as text, which fits every type of number, all else in binary
// form; so a statement can be sent before its parameters' types are known.

// PostgreSQL has no place for the character U+0000 in text, which Matrix
// allows. It is written as textEscape and "0", textEscape itself as textEscape
// and "1".
const textEscape = '\x01'

func escapeText(s string) string {
	if strings.IndexByte(s, 0) < 0 && strings.IndexByte(s, textEscape) < 0 {
		return s
	}
	return escaper.Replace(s)
}

func unescapeText(s string) string {
	if strings.IndexByte(s, textEscape) < 0 {
		return s
	}
	return unescaper.Replace(s)
}

var (
	escaper   = strings.NewReplacer("\x00", "\x010", "\x01", "\x011")
	unescaper = strings.NewReplacer("\x010", "\x00", "\x011", "\x01")
)

// pgParam turns an argument into a parameter and its format: 0 text, 1 binary.
func pgParam(a any) ([]byte, int16, error) {
	switch x := bindValue(a).(type) {
	case nil:
		return nil, 0, nil
	case int64:
		return strconv.AppendInt(nil, x, 10), 0, nil
	case string:
		return []byte(escapeText(x)), 1, nil
	case []byte:
		return x, 1, nil
	case bool:
		return strconv.AppendBool(nil, x), 0, nil
	case []int64:
		b := arrayHead(nil, pgtype.Int8OID, len(x))
		for _, n := range x {
			b = binary.BigEndian.AppendUint32(b, 8)
			b = binary.BigEndian.AppendUint64(b, uint64(n))
		}
		return b, 1, nil
	case []string:
		b := arrayHead(nil, pgtype.TextOID, len(x))
		for _, s := range x {
			b = appendElement(b, escapeText(s))
		}
		return b, 1, nil
	}
	return nil, 0, fmt.Errorf("parameter of type %T", a)
}

// arrayHead appends the head of a one-dimensional array in binary form.
func arrayHead(b []byte, element uint32, n int) []byte {
	dimensions := uint32(1)
	if n == 0 {
		dimensions = 0
	}
	b = binary.BigEndian.AppendUint32(b, dimensions)
	b = binary.BigEndian.AppendUint32(b, 1) // there may be nulls
	b = binary.BigEndian.AppendUint32(b, element)
	if n == 0 {
		return b
	}
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return binary.BigEndian.AppendUint32(b, 1) // index of the first
}

func appendElement[S string | []byte](b []byte, v S) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
	return append(b, v...)
}

// elementTypes are the types that columns of bulk statements may have.
var elementTypes = map[string]uint32{
	"bigint": pgtype.Int8OID, "smallint": pgtype.Int2OID, "boolean": pgtype.BoolOID, "text": pgtype.TextOID, "bytea": pgtype.ByteaOID,
}

// appendColumn appends one column of rows as an array. rows are the places in
// args at which the rows start.
func appendColumn(b []byte, columnType string, args []any, rows []int, column int) ([]byte, error) {
	b = arrayHead(b, elementTypes[columnType], len(rows))
	for _, at := range rows {
		switch x := bindValue(args[at+column]).(type) {
		case nil:
			b = binary.BigEndian.AppendUint32(b, 0xffffffff)
		case int64:
			if columnType == "smallint" {
				b = binary.BigEndian.AppendUint32(b, 2)
				b = binary.BigEndian.AppendUint16(b, uint16(x))
				break
			}
			b = binary.BigEndian.AppendUint32(b, 8)
			b = binary.BigEndian.AppendUint64(b, uint64(x))
		case bool:
			flag := byte(0)
			if x {
				flag = 1
			}
			b = append(binary.BigEndian.AppendUint32(b, 1), flag)
		case string:
			b = appendElement(b, escapeText(x))
		case []byte:
			if x == nil {
				b = binary.BigEndian.AppendUint32(b, 0xffffffff)
				break
			}
			b = appendElement(b, x)
		default:
			return nil, fmt.Errorf("column %d: value of type %T", column+1, x)
		}
	}
	return b, nil
}

// lockOrder returns the places in args at which rows of n columns start, in
// the order in which all processes write, and so lock, them.
func lockOrder(args []any, n int) []int {
	rows := make([]int, 0, len(args)/n)
	for at := 0; at < len(args); at += n {
		rows = append(rows, at)
	}
	slices.SortStableFunc(rows, func(a, b int) int {
		for c := range n {
			if d := compareArgs(args[a+c], args[b+c]); d != 0 {
				return d
			}
		}
		return 0
	})
	return rows
}

// compareArgs orders values of one column; those of unlike types are equal.
func compareArgs(a, b any) int {
	switch x := a.(type) {
	case int64:
		if y, ok := b.(int64); ok {
			return cmp.Compare(x, y)
		}
	case string:
		if y, ok := b.(string); ok {
			return cmp.Compare(x, y)
		}
	case []byte:
		if y, ok := b.([]byte); ok {
			return bytes.Compare(x, y)
		}
	}
	return 0
}

// pgColumn reads a column of a result in binary form.
func pgColumn(f *pgconn.FieldDescription, v []byte) (any, error) {
	if v == nil {
		return nil, nil
	}
	switch {
	case f.DataTypeOID == pgtype.Int8OID && len(v) == 8:
		return int64(binary.BigEndian.Uint64(v)), nil
	case f.DataTypeOID == pgtype.Int4OID && len(v) == 4:
		return int64(int32(binary.BigEndian.Uint32(v))), nil
	case f.DataTypeOID == pgtype.Int2OID && len(v) == 2:
		return int64(int16(binary.BigEndian.Uint16(v))), nil
	case f.DataTypeOID == pgtype.BoolOID && len(v) == 1:
		return v[0] != 0, nil
	case f.DataTypeOID == pgtype.TextOID:
		return unescapeText(string(v)), nil
	case f.DataTypeOID == pgtype.ByteaOID:
		return bytes.Clone(v), nil
	}
	return nil, fmt.Errorf("column %s has a type that is not read, number %d", f.Name, f.DataTypeOID)
}
