package federation

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"atoll/server"
	"atoll/spec"
)

// lenient reads envelopes of peers: a doubled member or a bad byte in one event
// must not cost the others. Whatever becomes durable or is hashed goes through
// the strict parsers of package spec afterwards.
var lenient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

const (
	// maxValueSize bounds one value inside a streamed answer, in bytes. An
	// event has at most 65,536 bytes; what is somewhat larger is left for the
	// parser of events to refuse, alone.
	maxValueSize = 1 << 20
	// maxListedServers bounds how many names of servers_in_room are taken.
	maxListedServers = 100_000
)

var (
	errAnswerTooLarge = errors.New("answer is too large")
	errBadAnswer      = errors.New("answer is not of the expected shape")
)

// answerReader reads one JSON object as a stream. Its memory is bounded by
// maxValueSize, whatever the peer sends, plus what its user keeps.
type answerReader struct {
	source budgetReader
	dec    *jsontext.Decoder
}

// budgetReader fails when more than left bytes are read before the budget is
// renewed.
type budgetReader struct {
	r    io.Reader
	left int
}

func (b *budgetReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errAnswerTooLarge
	}
	if len(p) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= n
	return n, err
}

func newAnswerReader(r io.Reader) *answerReader {
	a := &answerReader{source: budgetReader{r: r, left: maxValueSize}}
	a.dec = jsontext.NewDecoder(&a.source, lenient)
	return a
}

// object calls the function of each member it meets, which reads exactly that
// member's value, and skips the others. A doubled member is given twice.
func (a *answerReader) object(members map[string]func() error) error {
	if err := a.delim('{'); err != nil {
		return err
	}
	for a.dec.PeekKind() != '}' {
		name, err := a.token()
		if err != nil {
			return err
		}
		read, ok := members[name.String()]
		if !ok {
			read = a.skip
		}
		if err := read(); err != nil {
			return err
		}
	}
	return a.delim('}')
}

// list calls fn before each element; fn reads exactly that element. A null
// counts as an empty list.
func (a *answerReader) list(fn func() error) error {
	if a.dec.PeekKind() == 'n' {
		return a.skip()
	}
	if err := a.delim('['); err != nil {
		return err
	}
	for a.dec.PeekKind() != ']' {
		if err := fn(); err != nil {
			return err
		}
	}
	return a.delim(']')
}

// end checks that nothing follows.
func (a *answerReader) end() error {
	if _, err := a.dec.ReadToken(); err != io.EOF {
		return fmt.Errorf("%w: more after the object", errBadAnswer)
	}
	return nil
}

func (a *answerReader) token() (jsontext.Token, error) {
	t, err := a.dec.ReadToken()
	a.source.left = maxValueSize
	return t, err
}

func (a *answerReader) delim(want jsontext.Kind) error {
	t, err := a.token()
	if err == nil && t.Kind() != want {
		err = fmt.Errorf("%w: found %s instead of %s", errBadAnswer, t.Kind(), want)
	}
	return err
}

// skip reads one value of any size without keeping it.
func (a *answerReader) skip() error {
	for depth := a.dec.StackDepth(); ; {
		if _, err := a.token(); err != nil {
			return err
		}
		if a.dec.StackDepth() <= depth {
			return nil
		}
	}
}

// raw returns a copy of one value.
func (a *answerReader) raw() ([]byte, error) {
	v, err := a.dec.ReadValue()
	a.source.left = maxValueSize
	return bytes.Clone(v), err
}

// events appends the objects of a list to dst. Elements of other kinds cannot be
// events and are left out.
func (a *answerReader) events(dst *[][]byte) func() error {
	return func() error {
		return a.list(func() error {
			if a.dec.PeekKind() != '{' {
				return a.skip()
			}
			v, err := a.raw()
			if err == nil {
				*dst = append(*dst, v)
			}
			return err
		})
	}
}

// text reads a string; other kinds leave dst as it is.
func (a *answerReader) text(dst *string) func() error {
	return func() error {
		if a.dec.PeekKind() != '"' {
			return a.skip()
		}
		t, err := a.token()
		if err == nil {
			*dst = t.String()
		}
		return err
	}
}

// truth reads a boolean; other kinds leave dst as it is.
func (a *answerReader) truth(dst *bool) func() error {
	return func() error {
		if k := a.dec.PeekKind(); k != 't' && k != 'f' {
			return a.skip()
		}
		t, err := a.token()
		if err == nil {
			*dst = t.Bool()
		}
		return err
	}
}

// ids reads a list of strings, and keeps those that parse.
func ids[T ~string](a *answerReader, parse func(string) (T, error), limit int, dst *[]T) func() error {
	return func() error {
		return a.list(func() error {
			var s string
			if err := a.text(&s)(); err != nil {
				return err
			}
			if id, err := parse(s); err == nil && len(*dst) < limit {
				*dst = append(*dst, id)
			}
			return nil
		})
	}
}

// readSendJoin reads the answer to a join as a stream.
// Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
func readSendJoin(r io.Reader) (*server.SendJoinAnswer, error) {
	a, out := newAnswerReader(r), new(server.SendJoinAnswer)
	var origin string
	err := a.object(map[string]func() error{
		"origin":          a.text(&origin),
		"event":           a.optionalObject(&out.Event),
		"state":           a.events(&out.State),
		"auth_chain":      a.events(&out.AuthChain),
		"members_omitted": a.truth(&out.MembersOmitted),
		"servers_in_room": ids(a, spec.ParseServerName, maxListedServers, &out.ServersInRoom),
	})
	if err == nil {
		err = a.end()
	}
	if name, badName := spec.ParseServerName(origin); badName == nil {
		out.Origin = name
	}
	return out, err
}

// optionalObject reads an object; other kinds leave dst as it is.
func (a *answerReader) optionalObject(dst *[]byte) func() error {
	return func() (err error) {
		if a.dec.PeekKind() != '{' {
			return a.skip()
		}
		*dst, err = a.raw()
		return err
	}
}

// readEvents reads an answer that has lists of events under the given names.
func readEvents(r io.Reader, lists map[string]*[][]byte) error {
	a := newAnswerReader(r)
	members := make(map[string]func() error, len(lists))
	for name, dst := range lists {
		members[name] = a.events(dst)
	}
	if err := a.object(members); err != nil {
		return err
	}
	return a.end()
}

// readStateIDs reads the answer of /state_ids.
func readStateIDs(r io.Reader) (*server.RemoteStateIDs, error) {
	const unlimited = 1 << 30 // the body's size is limited
	a, out := newAnswerReader(r), new(server.RemoteStateIDs)
	err := a.object(map[string]func() error{
		"pdu_ids":        ids(a, spec.ParseEventID, unlimited, &out.State),
		"auth_chain_ids": ids(a, spec.ParseEventID, unlimited, &out.AuthChain),
	})
	if err == nil {
		err = a.end()
	}
	return out, err
}

// readTemplate reads the answer of make_join, make_knock and make_leave.
func readTemplate(r io.Reader) (server.EventTemplate, error) {
	a, out := newAnswerReader(r), server.EventTemplate{}
	version := "1" // Spec: an answer without a version is of room version 1 or 2
	err := a.object(map[string]func() error{
		"room_version": a.text(&version),
		"event":        a.optionalObject(&out.Event),
	})
	if err == nil {
		err = a.end()
	}
	if err == nil && out.Event == nil {
		err = fmt.Errorf("%w: no event", errBadAnswer)
	}
	out.Version = spec.RoomVersion(version)
	return out, err
}
