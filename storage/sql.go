package storage

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"reflect"
	"strconv"
	"strings"

	"atoll/spec"
)

// stmt is one SQL statement. It is made once, when the package's variables are
// initialised, and holds the text of each engine; connections prepare it at
// its first use and keep it.
type stmt struct {
	text   string // PostgreSQL
	sqlite string
}

// registry holds every statement and bulk of the package for the test that
// prepares them all. It changes only while package variables are initialised.
var registry struct {
	stmts []*stmt
	bulks []*bulk
}

// query makes a statement from PostgreSQL text with $N in order of first use.
// Lists are parameters too: `x = ANY($1::bigint[])` with []int64 or
// `x = ANY($1::text[])` with []string.
func query(text string) *stmt {
	s := &stmt{text: text, sqlite: rewriteQuery(text)}
	registry.stmts = append(registry.stmts, s)
	return s
}

// bulk is a statement that takes many rows at once: head, the rows as
// ($1, $2, …), ($n, …), and tail. Its text depends on the number of rows, of
// which only powers of two up to bulkMax are used, so few texts are prepared.
type bulk struct {
	id    int    // place in the registry
	name  string // for errors and metrics
	rank  int    // order within a transaction; also the order of locking
	head  string
	types []string // PostgreSQL types of the columns
	tail  string
	// key is how many leading columns name the row that is changed; of several
	// rows of one group with the same key only the last is written. 0: rows
	// never meet, or each has its effect.
	key int
	// positioned: the rows need their unit's positions in the log, so they are
	// written after the head of the log was moved.
	positioned bool
	// single: one row per statement, for changes whose order counts.
	single bool
	texts  [bulkSizes]*stmt // of SQLite, by the number of rows
	// arrays is the text of PostgreSQL, whose parameters are the columns; taken is
	// the same with one parameter more, how many rows it must return: otherwise it
	// fails with a division by zero. taken is nil where
	// no rows are returned.
	arrays, taken *stmt
}

// Rows per bulk statement: 1, 2, 4 … bulkMax. 128 rows of 20 columns stay far
// below SQLite's limit of 32,766 parameters.
const (
	bulkSizes = 8
	bulkMax   = 1 << (bulkSizes - 1)
)

// Ranks of the bulk statements: the order in which a transaction writes and
// on PostgreSQL the order in which it locks. Families after rooms use
// rankFamily + their schema number.
const (
	rankRooms = iota * 10
	rankStateKeys
	rankNodes
	rankEvents
	rankEdges
	rankMembers
	rankTxns
	rankFamily
	rankLog = 1_000_000
)

// newBulk finishes a bulk: it makes the texts of every size.
func newBulk(b bulk) *bulk {
	out := &b
	for i := range out.texts {
		out.texts[i] = &stmt{sqlite: out.render(1 << i)}
	}
	text := out.renderArrays()
	out.arrays = &stmt{text: text}
	if strings.Contains(out.tail, "RETURNING") {
		out.taken = &stmt{text: fmt.Sprintf(`/* fails if another process was faster */ WITH done AS (%s) SELECT 1 / (count(*) = $%d)::int FROM done`, text, len(out.types)+1)}
	}
	out.id = len(registry.bulks)
	registry.bulks = append(registry.bulks, out)
	return out
}

// render gives the text of SQLite for n rows, with bare question marks, which
// its driver binds fastest.
func (b *bulk) render(n int) string {
	row := "(" + strings.Repeat("?,", len(b.types)-1) + "?)"
	rows := strings.Repeat(row+",", n-1) + row
	return strings.TrimSpace(b.head + rows + " " + rewriteQuery(strings.TrimSpace(b.tail)))
}

// renderArrays gives the text of PostgreSQL for any number of rows: VALUES at
// the end of the head gives way to arrays, one for each column.
func (b *bulk) renderArrays() string {
	var params, names []string
	for i, t := range b.types {
		params = append(params, fmt.Sprintf("$%d::%s[]", i+1, t))
		names = append(names, fmt.Sprintf("column%d", i+1))
	}
	head := strings.TrimSuffix(b.head, "VALUES ")
	return fmt.Sprintf("%sSELECT * FROM unnest(%s) AS u(%s) %s", head, strings.Join(params, ", "), strings.Join(names, ", "), b.tail)
}

// piece returns the text for the next rows of which args arguments are left,
// and how many of the arguments it takes.
func (b *bulk) piece(args int) (*stmt, int) {
	size := min(bits.Len(uint(args/len(b.types)))-1, bulkSizes-1)
	if b.single {
		size = 0
	}
	return b.texts[size], len(b.types) << size
}

// types splits a list of column types: "bigint text text".
func types(list string) []string { return strings.Fields(list) }

// bindValue turns an argument into what both drivers take: int64, string,
// []byte, bool, float64 or nil. Named strings and integers go by their kind, a
// nil pointer is NULL, lists are handled by the engine.
func bindValue(v any) any {
	switch x := v.(type) {
	case nil, int64, string, []byte, bool, float64, []int64, []string:
		return x
	case int:
		return int64(x)
	case spec.EventID:
		return string(x)
	case spec.UserID:
		return string(x)
	case spec.RoomID:
		return string(x)
	case spec.ServerName:
		return string(x)
	case spec.Hash:
		return x[:]
	case *string:
		if x == nil {
			return nil
		}
		return *x
	}
	rv := reflect.ValueOf(v)
	switch {
	case rv.Kind() == reflect.String:
		return rv.String()
	case rv.CanInt():
		return rv.Int()
	case rv.CanUint():
		return int64(rv.Uint())
	case rv.Kind() == reflect.Bool:
		return rv.Bool()
	case rv.Kind() == reflect.Pointer:
		if rv.IsNil() {
			return nil
		}
		return bindValue(rv.Elem().Interface())
	case rv.Kind() == reflect.Slice && rv.Type().Elem().Kind() == reflect.String:
		list := make([]string, rv.Len())
		for i := range list {
			list[i] = rv.Index(i).String()
		}
		return list
	case rv.Kind() == reflect.Slice && rv.Type().Elem().Kind() == reflect.Uint8:
		return rv.Bytes()
	}
	return v
}

// assign stores a column into dest: *int64, *int, *string, *[]byte, *bool,
// *spec.Hash, a pointer to any named string, integer or bool type, or **string.
// NULL becomes the zero value.
func assign(dest, v any) error {
	switch d := dest.(type) {
	case *int64:
		n, err := asInt(v)
		*d = n
		return err
	case *int:
		n, err := asInt(v)
		*d = int(n)
		return err
	case *bool:
		n, err := asInt(v)
		*d = n != 0
		return err
	case *string:
		s, err := asString(v)
		*d = s
		return err
	case *[]byte:
		b, err := asBytes(v)
		*d = b
		return err
	case *spec.EventID:
		s, err := asString(v)
		*d = spec.EventID(s)
		return err
	case *spec.Hash:
		b, err := asBytes(v)
		if err == nil && b != nil && len(b) != len(d) {
			err = fmt.Errorf("hash column of %d bytes", len(b))
		}
		*d = spec.Hash{}
		copy(d[:], b)
		return err
	case **string:
		*d = nil
		if v == nil {
			return nil
		}
		s, err := asString(v)
		*d = &s
		return err
	}
	return assignKind(reflect.ValueOf(dest), v)
}

func assignKind(dest reflect.Value, v any) error {
	if dest.Kind() != reflect.Pointer {
		return fmt.Errorf("scan into %s, which is no pointer", dest.Type())
	}
	e := dest.Elem()
	switch {
	case e.Kind() == reflect.String:
		s, err := asString(v)
		e.SetString(s)
		return err
	case e.CanInt():
		n, err := asInt(v)
		e.SetInt(n)
		return err
	case e.CanUint():
		n, err := asInt(v)
		e.SetUint(uint64(n))
		return err
	case e.Kind() == reflect.Bool:
		n, err := asInt(v)
		e.SetBool(n != 0)
		return err
	case e.Kind() == reflect.Slice && e.Type().Elem().Kind() == reflect.Uint8:
		b, err := asBytes(v)
		e.SetBytes(b)
		return err
	}
	return fmt.Errorf("cannot scan into %s", dest.Type())
}

func asInt(v any) (int64, error) {
	switch x := v.(type) {
	case nil:
		return 0, nil
	case int64:
		return x, nil
	case int32:
		return int64(x), nil
	case int16:
		return int64(x), nil
	case bool:
		if x {
			return 1, nil
		}
		return 0, nil
	}
	return 0, fmt.Errorf("column of type %T, wanted a number", v)
}

func asString(v any) (string, error) {
	switch x := v.(type) {
	case nil:
		return "", nil
	case string:
		return x, nil
	case []byte:
		return string(x), nil
	}
	return "", fmt.Errorf("column of type %T, wanted text", v)
}

func asBytes(v any) ([]byte, error) {
	switch x := v.(type) {
	case nil:
		return nil, nil
	case []byte:
		return x, nil
	case string:
		return []byte(x), nil
	}
	return nil, fmt.Errorf("column of type %T, wanted bytes", v)
}

// nullString is the argument for a column where "" is stored as NULL.
func nullString[S ~string](s S) any {
	if s == "" {
		return nil
	}
	return string(s)
}

// nullInt is the argument for a column where 0 is stored as NULL.
func nullInt(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}

// nullBytes is the argument for a column where an empty value is NULL.
func nullBytes(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

// nullHash is the argument for a root column: the empty state is NULL.
func nullHash(h spec.Hash) any {
	if h == (spec.Hash{}) {
		return nil
	}
	return append([]byte(nil), h[:]...)
}

// encodeNIDs writes local ids as the JSON array that list columns hold.
func encodeNIDs(nids []int64) string {
	b := make([]byte, 0, 2+8*len(nids))
	b = append(b, '[')
	for i, n := range nids {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(append(b, ']'))
}

// decodeNIDs reads what encodeNIDs wrote; nil for "" and "[]".
func decodeNIDs(text string) ([]int64, error) {
	if text == "" || text == "[]" {
		return nil, nil
	}
	body, ok := strings.CutPrefix(text, "[")
	body, ok2 := strings.CutSuffix(body, "]")
	if !ok || !ok2 {
		return nil, fmt.Errorf("list column %.40q is no array", text)
	}
	out := make([]int64, 0, strings.Count(body, ",")+1)
	for part := range strings.SplitSeq(body, ",") {
		n, err := strconv.ParseInt(part, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("list column: %w", err)
		}
		out = append(out, n)
	}
	return out, nil
}

// listArg is the JSON text that stands for a list parameter on SQLite.
func listArg(v any) (string, bool) {
	switch x := v.(type) {
	case []int64:
		return encodeNIDs(x), true
	case []string:
		b, err := json.Marshal(x)
		return string(b), err == nil
	}
	return "", false
}
