package storage

import (
	"fmt"
	"strings"
)

// dialect is one of the two SQL engines. Everything in which their texts
// differ is in this file, except bulk statements and the pieces of the schema
// that carry a guard.
type dialect uint8

const (
	dialectSQLite dialect = iota
	dialectPostgres
)

// String returns the name that `-- only:` guards of the schema use.
func (d dialect) String() string {
	if d == dialectPostgres {
		return "postgres"
	}
	return "sqlite"
}

// columnTypes maps the PostgreSQL types that the schema may use to those of
// STRICT tables of SQLite.
var columnTypes = map[string]string{
	"bigint":   "INTEGER",
	"smallint": "INTEGER",
	"boolean":  "INTEGER",
	"bytea":    "BLOB",
	"text":     "TEXT",
}

// postgresTypes are the types that PostgreSQL is told more exactly: text is
// ordered by its bytes, as in SQLite, whatever the locale of the database and
// its version of the rules.
var postgresTypes = map[string]string{"text": `text COLLATE "C"`}

// rewriteQuery turns PostgreSQL text into the text for SQLite:
//
//	= ANY($1)    IN (SELECT value FROM json_each(?1))
//	<> ALL($1)   NOT IN (SELECT value FROM json_each(?1))
//	$1           ?1
//	x::bigint    x
//	FOR UPDATE [SKIP LOCKED]   dropped
//
// Literals, quoted names and comments are left alone.
func rewriteQuery(text string) string {
	var out strings.Builder
	toks := scanSQL(text)
	for i := 0; i < len(toks); i++ {
		switch t := toks[i]; {
		case t == "::": // the type behind it, with [] or (n), goes too
			i++
			for i+1 < len(toks) && (toks[i+1] == "[" || toks[i+1] == "]") {
				i++
			}
		case t[0] == '$':
			out.WriteString("?" + t[1:])
		case matchTokens(toks[i:], "=", "ANY", "("), matchTokens(toks[i:], "<>", "ALL", "("):
			param, used := listParam(toks[i:])
			if used == 0 {
				out.WriteString(t)
				continue
			}
			word := "IN"
			if t == "<>" {
				word = "NOT IN"
			}
			fmt.Fprintf(&out, "%s (SELECT value FROM json_each(?%s))", word, param[1:])
			i += used - 1
		case matchTokens(toks[i:], "FOR", "UPDATE"):
			i = skipTokens(toks, i, "FOR", "UPDATE")
			if j := nextWord(toks, i+1); j > 0 && strings.EqualFold(toks[j], "SKIP") {
				i = skipTokens(toks, j, "SKIP", "LOCKED")
			}
		default:
			out.WriteString(t)
		}
	}
	return strings.TrimRight(out.String(), " \t\n")
}

// listParam reads `= ANY ( $n [::type[]] )` at the start of toks and returns
// the parameter and how many tokens that took; 0 if it is something else.
func listParam(toks []string) (param string, used int) {
	i := 0
	for ; i < len(toks) && toks[i] != ")"; i++ {
		if toks[i][0] == '$' {
			param = toks[i]
		}
	}
	if param == "" || i == len(toks) {
		return "", 0
	}
	return param, i + 1
}

// nextWord returns the index of the first token from i on that is no space; -1
// at the end.
func nextWord(toks []string, i int) int {
	for ; i < len(toks); i++ {
		if !isBlank(toks[i]) {
			return i
		}
	}
	return -1
}

// matchTokens tells whether toks starts with the words, spaces between them
// aside.
func matchTokens(toks []string, words ...string) bool {
	i := 0
	for _, w := range words {
		if i = nextWord(toks, i); i < 0 || !strings.EqualFold(toks[i], w) {
			return false
		}
		if w == words[0] && i != 0 {
			return false
		}
		i++
	}
	return true
}

// skipTokens returns the index of the last of the words, which start at i.
func skipTokens(toks []string, i int, words ...string) int {
	for n := range words {
		i = nextWord(toks, i)
		if n < len(words)-1 {
			i++
		}
	}
	return i
}

func isBlank(tok string) bool { return strings.TrimSpace(tok) == "" }

// scanSQL cuts SQL into tokens that joined give the text again: words,
// numbers, parameters ($1), runs of spaces, literals, quoted names, comments,
// the operators :: <> <= >= and single characters.
func scanSQL(text string) []string {
	var toks []string
	for len(text) > 0 {
		n := tokenLen(text)
		toks = append(toks, text[:n])
		text = text[n:]
	}
	return toks
}

func tokenLen(s string) int {
	switch c := s[0]; {
	case c == '\'' || c == '"':
		return quotedLen(s, c)
	case strings.HasPrefix(s, "--"):
		if i := strings.IndexByte(s, '\n'); i >= 0 {
			return i
		}
		return len(s)
	case strings.HasPrefix(s, "::"), strings.HasPrefix(s, "<>"), strings.HasPrefix(s, "<="), strings.HasPrefix(s, ">="):
		return 2
	case isSpace(c):
		return runLen(s, isSpace)
	case isWordByte(c):
		return runLen(s, isWordByte)
	case c == '$':
		return 1 + runLen(s[1:], isWordByte)
	}
	return 1
}

// quotedLen is the length of the literal or quoted name at the start of s; a
// doubled quote inside belongs to it.
func quotedLen(s string, quote byte) int {
	for i := 1; i < len(s); i++ {
		if s[i] != quote {
			continue
		}
		if i+1 < len(s) && s[i+1] == quote {
			i++
			continue
		}
		return i + 1
	}
	return len(s)
}

func runLen(s string, in func(byte) bool) int {
	n := 0
	for n < len(s) && in(s[n]) {
		n++
	}
	return n
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func isWordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// ddl is one statement of a schema file with the `-- key: value` lines above
// it.
type ddl struct {
	text   string
	marks  map[string]string
	isMade string // table that it creates; "" if none
}

// splitSchema cuts a schema file into its statements. Comment lines of the
// form `-- key: value` directly above a statement are its marks; keys are
// lower-case words.
func splitSchema(file string) []ddl {
	var out []ddl
	var b strings.Builder
	marks := map[string]string{}
	begun := false
	for _, t := range scanSQL(file) {
		switch {
		case !begun && strings.HasPrefix(t, "--"):
			if k, v, ok := strings.Cut(strings.TrimSpace(t[2:]), ": "); ok && k == strings.ToLower(k) && !strings.Contains(k, " ") {
				marks[k] = v
			}
			continue
		case !begun && isBlank(t):
			if strings.Count(t, "\n") > 1 {
				marks = map[string]string{} // a blank line parts a comment from what follows
			}
			continue
		case t == ";":
			d := ddl{text: b.String(), marks: marks}
			d.isMade = createdTable(d.text)
			out = append(out, d)
			b.Reset()
			marks, begun = map[string]string{}, false
			continue
		}
		begun = true
		b.WriteString(t)
	}
	if begun {
		out = append(out, ddl{text: b.String(), marks: marks, isMade: createdTable(b.String())})
	}
	return out
}

func createdTable(stmt string) string {
	toks := scanSQL(stmt)
	if !matchTokens(toks, "CREATE", "TABLE") {
		return ""
	}
	if i := nextWord(toks, skipTokens(toks, 0, "CREATE", "TABLE")+1); i > 0 {
		return toks[i]
	}
	return ""
}

// forDialect returns the statement for an engine; false if a guard keeps it
// from that engine. For PostgreSQL text gets its order. For SQLite the column types change, tables become STRICT
// and those marked `-- clustered: …` have no row id, so that the rows lie in
// the order of the primary key.
func (d ddl) forDialect(to dialect) (string, bool) {
	if only := d.marks["only"]; only != "" && only != to.String() {
		return "", false
	}
	exchange := columnTypes
	if to == dialectPostgres {
		exchange = postgresTypes
	}
	var out strings.Builder
	for _, t := range scanSQL(d.text) {
		if u, ok := exchange[t]; ok {
			t = u
		}
		out.WriteString(t)
	}
	text := out.String()
	if to == dialectPostgres {
		return text, true
	}
	if d.isMade != "" {
		text += " STRICT"
		if _, ok := d.marks["clustered"]; ok {
			text += ", WITHOUT ROWID"
		}
	}
	return text, true
}
