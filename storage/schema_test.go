package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// declared returns the CREATE TABLE statements of the schema by table.
func declared(t *testing.T) map[string]ddl {
	t.Helper()
	all, err := migrations(schemaFS)
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]ddl{}
	for _, m := range all {
		for _, d := range splitSchema(m.text) {
			if d.isMade != "" {
				tables[d.isMade] = d
			}
		}
	}
	return tables
}

// methods returns the exported methods of *Tx and *DB.
func methods(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv == nil {
				continue
			}
			if star, ok := fn.Recv.List[0].Type.(*ast.StarExpr); ok {
				if id, ok := star.X.(*ast.Ident); ok && (id.Name == "Tx" || id.Name == "DB") {
					out[fn.Name.Name] = true
				}
			}
		}
	}
	return out
}

var (
	retentionForever    = regexp.MustCompile(`^forever, .{5,}`)
	retentionWith       = regexp.MustCompile(`^with ([a-z_]+)$`)
	retentionSuperseded = regexp.MustCompile(`^superseded by ([A-Z]\w+)$`)
	retentionAge        = regexp.MustCompile(`^[1-9][0-9]*[hd] by ([A-Z]\w+)$`)
)

// checkRetention returns what is wrong with a rule; "" if nothing is.
func checkRetention(d ddl, tables map[string]ddl, methods map[string]bool) string {
	rule := d.marks["retention"]
	if m := retentionWith.FindStringSubmatch(rule); m != nil {
		if _, ok := tables[m[1]]; !ok {
			return "goes with the unknown table " + m[1]
		}
		if m[1] == "rooms" {
			if !strings.Contains(d.text, "room_nid") {
				return "goes with rooms but has no room_nid"
			}
			if !slices.ContainsFunc(purges, func(s *stmt) bool { return strings.HasPrefix(s.text, "DELETE FROM "+d.isMade+" ") }) {
				return "goes with rooms but PurgeRoom does not empty it"
			}
		}
		return ""
	}
	for _, form := range []*regexp.Regexp{retentionSuperseded, retentionAge} {
		if m := form.FindStringSubmatch(rule); m != nil {
			if !methods[m[1]] {
				return "neither Tx nor DB has a method " + m[1]
			}
			return ""
		}
	}
	if !retentionForever.MatchString(rule) {
		return fmt.Sprintf("has the retention rule %q, which is in none of the forms of schema/0001", rule)
	}
	return ""
}

func TestEveryTableDeclaresOwnerAndRetention(t *testing.T) {
	tables, methods := declared(t), methods(t)
	for name, d := range tables {
		if d.marks["owner"] == "" {
			t.Errorf("table %s has no owner", name)
		}
		if wrong := checkRetention(d, tables, methods); wrong != "" {
			t.Errorf("table %s %s", name, wrong)
		}
	}
	for rule, good := range map[string]bool{
		"": false, "forever": false, "forever, one row": true, "with rooms": false, "with nothing": false, "with users": true,
		"superseded by Nobody": false, "superseded by CompactLog": true, "24h by PruneTxns": true, "a day by PruneTxns": false,
	} {
		d := ddl{text: "CREATE TABLE x (a bigint)", marks: map[string]string{"retention": rule}, isMade: "x"}
		if wrong := checkRetention(d, tables, methods); (wrong == "") != good {
			t.Errorf("rule %q: %q", rule, wrong)
		}
	}
}

var columnLine = regexp.MustCompile(`^\s*([a-z_]+)\s`)

func TestEveryColumnHasAComment(t *testing.T) {
	for name, d := range declared(t) {
		for line := range strings.Lines(d.text) {
			if m := columnLine.FindStringSubmatch(line); m != nil && !strings.Contains(line, "-- ") {
				t.Errorf("column %s of %s has no comment", m[1], name)
			}
			if strings.Contains(line, " -- ") && columnLine.MatchString(line) && !strings.Contains(line, "NOT NULL") &&
				!strings.Contains(line, "null: ") {
				t.Errorf("table %s: the comment does not say what null means: %s", name, strings.TrimSpace(line))
			}
		}
	}
}

func TestTablesOfTheDatabaseAreDeclared(t *testing.T) {
	db := openTest(t)
	tables := declared(t)
	list := &stmt{sqlite: `SELECT name, sql FROM sqlite_master WHERE type = 'table'`}
	err := db.Read(context.Background(), func(tx *Tx) error {
		return tx.each(list, nil, func(r *rows) error {
			var name, text string
			if err := r.scan(&name, &text); err != nil {
				return err
			}
			if _, ok := tables[name]; !ok && name != "migrations" {
				t.Errorf("table %s is not declared in a schema file", name)
			}
			if !strings.Contains(text, "STRICT") {
				t.Errorf("table %s is not STRICT", name)
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMigrations(t *testing.T) {
	ctx := context.Background()
	db := openTest(t)
	all, err := migrations(schemaFS)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.migrate(ctx, all); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := db.migrate(ctx, all[:len(all)-1]); err == nil {
		t.Error("a schema of a newer version was accepted")
	}
	changed := slices.Clone(all)
	changed[0].sum = "different"
	if err := db.migrate(ctx, changed); err == nil {
		t.Error("a changed file was accepted")
	}
	bad := append(slices.Clone(all), migration{number: 9999, name: "9999-bad", text: "CREATE TABLE half (a bigint); SELECT nonsense;"})
	if err := db.migrate(ctx, bad); err == nil {
		t.Error("a file with a mistake was accepted")
	}
	half := &stmt{sqlite: `SELECT count(*) FROM sqlite_master WHERE name = 'half'`}
	err = db.Read(ctx, func(tx *Tx) error {
		n := 0
		err := tx.one(half, nil, &n)
		if n != 0 {
			t.Error("a file that failed left a table behind")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for claim, files := range map[string]fs.FS{
		"two files of one number": fstest.MapFS{"schema/0001-a.sql": {}, "schema/0001-b.sql": {}},
		"a name without number":   fstest.MapFS{"schema/first.sql": {}},
	} {
		if _, err := migrations(files); err == nil {
			t.Errorf("%s: accepted", claim)
		}
	}
}

// scansAllowed are statements that read a whole table on purpose.
var scansAllowed = regexp.MustCompile(`(?s)migrations|SELECT nid, room_id, .* FROM rooms ORDER BY nid$|log_head|sequences|FROM meta|DISTINCT server|` +
	`DELETE FROM room_servers WHERE until_pos|FROM destinations|FROM registration_tokens|FROM server_keys|published_rooms|sender_position|FROM ledger|FROM partings`)

// A query that scans a table that grows is a mistake in its text or a missing
// index. Queries of Check are meant to read everything.
func TestQueriesUseIndexes(t *testing.T) {
	db := openTest(t)
	checks := map[*stmt]bool{checkLogHoles: true, checkLogBeyond: true, checkLogEnd: true, checkEventLog: true, checkLogEvent: true,
		checkTimeline: true, checkHiddenPos: true, checkRedacted: true, checkStateKeys: true, checkEdges: true, checkAuth: true,
		checkGaps: true, checkMemberEvents: true, checkServers: true, checkLeases: true, checkOrphans: true}
	list := slices.Clone(registry.stmts)
	for _, b := range registry.bulks {
		list = append(list, b.texts[0], b.texts[2])
	}
	err := db.Read(context.Background(), func(tx *Tx) error {
		for _, s := range list {
			word, _, _ := strings.Cut(s.sqlite, " ")
			if checks[s] || scansAllowed.MatchString(cmp.Or(s.text, s.sqlite)) || !slices.Contains([]string{"SELECT", "UPDATE", "DELETE", "INSERT", "WITH"}, word) {
				continue
			}
			plan, err := explain(tx, s)
			if err != nil {
				return fmt.Errorf("%w: %s", err, s.sqlite)
			}
			for _, step := range plan {
				if strings.HasPrefix(step, "SCAN ") && !harmless(step) {
					t.Errorf("%s\n  in %s", step, s.sqlite)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// harmless scans are those of values given with the statement, and those that
// stop early in the order of an index.
func harmless(step string) bool {
	for _, of := range []string{"json_each", "VALUES", "CONSTANT", "v", "(subquery"} {
		if strings.HasPrefix(step, "SCAN "+of) && (of != "v" || step == "SCAN v") {
			return true
		}
	}
	return strings.Contains(step, "-ROW VALUES") || step == "SCAN 2 CONSTANT ROWS"
}

func explain(tx *Tx, s *stmt) ([]string, error) {
	var args []any
	if s.text == "" { // of a bulk
		args = make([]any, strings.Count(s.sqlite, "?"))
	}
	seen := map[string]bool{}
	for _, tok := range scanSQL(s.text) {
		if tok[0] == '$' && !seen[tok] {
			seen[tok] = true
			args = append(args, nil)
		}
	}
	var plan []string
	err := tx.each(&stmt{sqlite: "EXPLAIN QUERY PLAN " + s.sqlite}, args, func(r *rows) error {
		var id, parent, unused int64
		var detail string
		err := r.scan(&id, &parent, &unused, &detail)
		plan = append(plan, detail)
		return err
	})
	return plan, err
}

func TestErrorsOfTheSchemaAreConstraints(t *testing.T) {
	db := openTest(t)
	err := db.Write(context.Background(), func(tx *Tx) error {
		_, err := tx.exec(&stmt{sqlite: `INSERT INTO log_head (one, pos, compacted_to) VALUES (1, 0, 0)`})
		return err
	})
	if !errors.Is(err, ErrConstraint) {
		t.Errorf("a taken key: %v", err)
	}
}
