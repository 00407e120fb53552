package server

import (
	"errors"
	"strings"
	"testing"

	"atoll/spec"
)

func TestParseFilterRefuses(t *testing.T) {
	for claim, c := range map[string]struct {
		raw  string
		code spec.Code
	}{
		"05-004 broken JSON":                         {`{"room":`, spec.CodeNotJSON},
		"05-004 trailing garbage":                    {`{} x`, spec.CodeNotJSON},
		"05-009 a list instead of the filter":        {`[]`, spec.CodeBadJSON},
		"05-009 a section that is no object":         {`{"room":[]}`, spec.CodeBadJSON},
		"05-009 a section within room":               {`{"room":{"timeline":"x"}}`, spec.CodeBadJSON},
		"05-009 a string where a list is due":        {`{"presence":{"types":"m.presence"}}`, spec.CodeBadJSON},
		"05-009 a number in a list of strings":       {`{"account_data":{"not_types":[1]}}`, spec.CodeBadJSON},
		"05-009 a room entry that is no room ID":     {`{"room":{"rooms":["#alias:x"]}}`, spec.CodeInvalidParam},
		"05-009 not_rooms of a section":              {`{"room":{"state":{"not_rooms":["nonsense"]}}}`, spec.CodeInvalidParam},
		"05-009 a sender that is no user ID":         {`{"room":{"timeline":{"senders":["alice"]}}}`, spec.CodeInvalidParam},
		"05-009 not_senders of presence":             {`{"presence":{"not_senders":["!a:b"]}}`, spec.CodeInvalidParam},
		"05-009 a negative limit":                    {`{"room":{"timeline":{"limit":-1}}}`, spec.CodeInvalidParam},
		"05-009 a limit that is no number":           {`{"room":{"timeline":{"limit":"10"}}}`, spec.CodeBadJSON},
		"05-009 a flag that is none":                 {`{"room":{"include_leave":1}}`, spec.CodeBadJSON},
		"05-009 event_fields that is no list":        {`{"event_fields":"content"}`, spec.CodeBadJSON},
		"05-009 an event_format that does not exist": {`{"event_format":"xml"}`, spec.CodeInvalidParam},
		"a list without end":                         {`{"event_fields":["a"` + strings.Repeat(`,"a"`, maxFilterList) + `]}`, spec.CodeInvalidParam},
		"a filter without end":                       {`{"x":"` + strings.Repeat("x", maxFilterBytes) + `"}`, spec.CodeTooLarge},
	} {
		t.Run(claim, func(t *testing.T) {
			_, err := ParseFilter([]byte(c.raw))
			var e *spec.Error
			if !errors.As(err, &e) || e.Code != c.code {
				t.Errorf("%v, want %s", err, c.code)
			}
		})
	}
}

func TestFilterMatchesEvents(t *testing.T) {
	message := &spec.Event{Type: "m.room.message", Sender: "@alice:a", Room: "!r:a", Content: []byte(`{"body":"\"url\"","info":{"url":"mxc://x"}}`)}
	image := &spec.Event{Type: "m.room.message", Sender: "@bob:b", Room: "!r:a", Content: []byte(`{"body":"x","url":"mxc://x"}`)}
	for claim, c := range map[string]struct {
		timeline       string
		message, image bool
	}{
		"05-010 no restriction":                   {`{}`, true, true},
		"05-010 a type":                           {`{"types":["m.room.message"]}`, true, true},
		"05-010 another type":                     {`{"types":["m.room.member"]}`, false, false},
		"05-010 a type with a star at the end":    {`{"types":["m.room.*"]}`, true, true},
		"05-010 a type with a star in the middle": {`{"types":["m.*.message"]}`, true, true},
		"05-010 exclusion wins":                   {`{"types":["m.room.message"],"not_types":["*message"]}`, false, false},
		"05-010 an empty list lets nothing pass":  {`{"types":[]}`, false, false},
		"05-010 an empty exclusion excludes none": {`{"not_types":[]}`, true, true},
		"a sender":                        {`{"senders":["@alice:a"]}`, true, false},
		"not a sender":                    {`{"not_senders":["@alice:a"]}`, false, true},
		"not a sender, although listed":   {`{"senders":["@alice:a"],"not_senders":["@alice:a"]}`, false, false},
		"another room":                    {`{"rooms":["!s:a"]}`, false, false},
		"not the room":                    {`{"not_rooms":["!r:a"]}`, false, false},
		"only with url, on the top level": {`{"contains_url":true}`, false, true},
		"only without url":                {`{"contains_url":false}`, true, false},
	} {
		t.Run(claim, func(t *testing.T) {
			f, err := ParseFilter([]byte(`{"room":{"timeline":` + c.timeline + `}}`))
			if err != nil {
				t.Fatal(err)
			}
			if got := f.Room.Timeline.MatchEvent(message); got != c.message {
				t.Errorf("message passes: %v", got)
			}
			if got := f.Room.Timeline.MatchEvent(image); got != c.image {
				t.Errorf("image passes: %v", got)
			}
			// 05-011: each section has its own filter.
			if !f.Room.State.MatchEvent(message) || !f.Room.Ephemeral.MatchEvent(image) {
				t.Error("the timeline's filter touches another section")
			}
		})
	}
}

func TestFilterSections(t *testing.T) {
	f, err := ParseFilter([]byte(`{
		"presence": {"types": []}, "account_data": {"not_types": ["*"]}, "unknown": {"is": "ignored"},
		"room": {"rooms": ["!in:a", "!both:a"], "not_rooms": ["!both:a"], "include_leave": true,
			"ephemeral": {"types": []}, "timeline": {"limit": 7, "lazy_load_members": true}, "state": {"limit": 0}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if !f.Presence.MatchesNothing() || !f.AccountData.MatchesNothing() || !f.Room.Ephemeral.MatchesNothing() {
		t.Error("05-014 a section is not switched off")
	}
	if f.Room.Timeline.MatchesNothing() || !f.Room.Timeline.LazyLoadMembers || f.Room.Timeline.IncludeRedundantMembers {
		t.Error("the timeline's filter was not read as it was written")
	}
	if !f.Room.MatchRoom("!in:a") || f.Room.MatchRoom("!both:a") || f.Room.MatchRoom("!other:a") || !f.Room.IncludeLeave {
		t.Error("05-010 the choice of rooms is wrong")
	}
	if n := f.Room.Timeline.LimitOr(20, 100); n != 7 {
		t.Errorf("limit %d, want 7", n)
	}
	if n := f.Room.Timeline.LimitOr(20, 5); n != 5 {
		t.Errorf("limit %d, want the most that is allowed", n)
	}
	if n := f.Room.AccountData.LimitOr(20, 100); n != 20 {
		t.Errorf("limit %d, want the default", n)
	}
}

func TestFilterFields(t *testing.T) {
	const event = `{"content":{"body":"hi","m.relates_to":{"event_id":"$1"},"a\\b":1,"info":{"w":1,"h":2}},"sender":"@a:b","type":"t"}`
	for claim, c := range map[string]struct{ fields, want string }{
		"05-012 absent keeps everything":             {`null`, event},
		"05-012 a path of two names":                 {`["content.body"]`, `{"content":{"body":"hi"}}`},
		"05-012 an escaped dot":                      {`["content.m\\.relates_to"]`, `{"content":{"m.relates_to":{"event_id":"$1"}}}`},
		"05-012 an escaped backslash":                {`["content.a\\\\b"]`, `{"content":{"a\\b":1}}`},
		"05-012 another escape is left alone":        {`["content.a\\b"]`, `{"content":{"a\\b":1}}`},
		"05-012 several paths":                       {`["type","content.info.w","content.body"]`, `{"content":{"body":"hi","info":{"w":1}},"type":"t"}`},
		"05-012 the shorter of two paths wins":       {`["content","content.body"]`, `{"content":{"body":"hi","m.relates_to":{"event_id":"$1"},"a\\b":1,"info":{"w":1,"h":2}}}`},
		"05-012 a path that leads nowhere":           {`["content.info.x","sender"]`, `{"sender":"@a:b"}`},
		"05-012 a path through what is no object":    {`["sender.x"]`, `{}`},
		"05-012 an empty list keeps an empty object": {`[]`, `{}`},
	} {
		t.Run(claim, func(t *testing.T) {
			f, err := ParseFilter([]byte(`{"event_fields":` + c.fields + `}`))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(f.Fields().Append([]byte("x"), []byte(event))); got != "x"+c.want {
				t.Errorf("got  %s\nwant %s", got, "x"+c.want)
			}
		})
	}
}

func TestGlobMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "abc", true}, {"a*", "a", true}, {"a*", "ba", false},
		{"*a", "ba", true}, {"*a", "ab", false}, {"a*a", "a", false}, {"a*a", "aa", true}, {"a*b*c", "aXbYc", true},
		{"a*b*c", "aXcYb", false}, {"**", "x", true}, {"a**b", "ab", true}, {"*ab*ab", "ab", false}, {"*ab*ab", "abab", true},
	} {
		if got := globMatch(c.pattern, c.s); got != c.want {
			t.Errorf("%q against %q: %v", c.pattern, c.s, got)
		}
	}
}
