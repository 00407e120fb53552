package spec

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const pushOwner UserID = "@alice:domain"

// pushTestEvent is an event by Bob with a content and maybe a state key.
func pushTestEvent(t testing.TB, eventType, content string, stateKey *string) *PushEvent {
	t.Helper()
	b := testMessage(rulesV12)
	b.Sender, b.Type, b.Content, b.State = "@bob:domain", eventType, []byte(content), stateKey
	return NewPushEvent(mustBuild(t, rulesV12, b), 5, nil)
}

func pushVerdict(p *PushRules, ev *PushEvent) string {
	actions, ok := p.Evaluate(ev, "Alice")
	switch {
	case !ok:
		return "none"
	case actions.Highlight:
		return "highlight"
	case actions.Notify:
		return "notify"
	}
	return "quiet"
}

func TestPushDefaults(t *testing.T) {
	p := DefaultPushRules(pushOwner)
	var out map[string][]struct {
		ID         string `json:"rule_id"`
		Default    bool
		Enabled    bool
		Conditions *[]map[string]any
		Actions    *[]any
	}
	text := p.AppendJSON(nil)
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	if canon, err := Canonical(text); err != nil || string(canon) != string(text) {
		t.Errorf("not canonical: %s", text)
	}
	want := map[string][]string{
		"override": {"master", "suppress_notices", "invite_for_me", "member_event", "is_user_mention", "is_room_mention",
			"tombstone", "reaction", "room.server_acl", "suppress_edits"},
		"content": {}, "room": {}, "sender": {},
		"underride": {"call", "encrypted_room_one_to_one", "room_one_to_one", "message", "encrypted"},
	}
	if len(out) != len(want) {
		t.Errorf("11-001 kinds: %s", text)
	}
	for kind, ids := range want {
		if out[kind] == nil || len(out[kind]) != len(ids) {
			t.Fatalf("11-003 11-005 %s: %+v", kind, out[kind])
		}
		for i, r := range out[kind] {
			if r.ID != ".m.rule."+ids[i] || !r.Default || r.Enabled == (ids[i] == "master") || r.Conditions == nil || r.Actions == nil {
				t.Errorf("11-003 %s %d: %+v", kind, i, r)
			}
		}
	}
	if strings.Count(string(text), `"@alice:domain"`) != 2 || strings.Contains(string(text), selfPlaceholder) {
		t.Errorf("11-004 %s", text)
	}
	if string(p.Stored()) != "{}" {
		t.Errorf("stored %s", p.Stored())
	}
}

// The definitions of the specification, read from its text, are ours.
func TestPushDefaultsAgainstText(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(matrixSpec(t), "content/client-server-api/modules/push.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, block := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		var want struct {
			ID string `json:"rule_id"`
		}
		if json.Unmarshal([]byte(block[1]), &want) != nil || want.ID == "" {
			continue
		}
		found++
		r, ok := defaultRule(want.ID)
		if !ok {
			t.Errorf("11-003 %s is not there", want.ID)
			continue
		}
		rule, err := Canonical([]byte(strings.ReplaceAll(block[1], "[the user's Matrix ID]", string(pushOwner))))
		if got := r.AppendJSON(nil, pushOwner); err != nil || string(got) != string(rule) {
			t.Errorf("11-003 got %s, want %s", got, rule)
		}
	}
	if found != 15 {
		t.Errorf("%d definitions in the text", found)
	}
}

func TestPushDefaultVerdicts(t *testing.T) {
	p := DefaultPushRules(pushOwner)
	cases := []struct {
		name, eventType, content string
		stateKey                 *string
		want                     string
	}{
		{"a message", TypeMessage, `{"body":"hi"}`, nil, "notify"},
		{"an encrypted event", TypeEncrypted, `{}`, nil, "notify"},
		{"another event", "x", `{}`, nil, "none"},
		{"11-003 a notice", TypeMessage, `{"msgtype":"m.notice","body":"Alice"}`, nil, "quiet"},
		{"11-025 a mention", TypeMessage, `{"body":"x","m.mentions":{"user_ids":["@carol:domain","@alice:domain"]}}`, nil, "highlight"},
		{"11-025 a mention of somebody else", TypeMessage, `{"body":"x","m.mentions":{"user_ids":["@carol:domain"]}}`, nil, "notify"},
		{"11-005 a name in the body", TypeMessage, `{"body":"Alice, @alice:domain, @room"}`, nil, "notify"},
		{"11-028 the own invite", TypeMember, `{"membership":"invite"}`, ptr("@alice:domain"), "notify"},
		{"11-028 another one's invite", TypeMember, `{"membership":"invite"}`, ptr("@carol:domain"), "quiet"},
		{"a join", TypeMember, `{"membership":"join"}`, ptr("@bob:domain"), "quiet"},
		{"a tombstone", "m.room.tombstone", `{}`, ptr(""), "highlight"},
		{"a tombstone that is no state", "m.room.tombstone", `{}`, nil, "none"},
		{"11-027 a reaction", TypeReaction, `{}`, nil, "quiet"},
		{"11-027 an edit", TypeMessage, `{"body":"x","m.relates_to":{"rel_type":"m.replace"}}`, nil, "quiet"},
		{"an edit with a mention", TypeMessage,
			`{"body":"x","m.mentions":{"user_ids":["@alice:domain"]},"m.relates_to":{"rel_type":"m.replace"}}`, nil, "highlight"},
		{"a server ACL", TypeServerACL, `{}`, ptr(""), "quiet"},
		{"a call", "m.call.invite", `{}`, nil, "notify"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := pushVerdict(p, pushTestEvent(t, c.eventType, c.content, c.stateKey)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	own := testMessage(rulesV12)
	own.Sender = pushOwner
	if got := pushVerdict(p, NewPushEvent(mustBuild(t, rulesV12, own), 2, nil)); got != "none" {
		t.Errorf("11-018 an own event: %s", got)
	}
	two := NewPushEvent(pushTestEvent(t, TypeMessage, `{}`, nil).event, 2, nil)
	if a, _ := p.Evaluate(two, ""); string(a.Tweaks) != `{"sound":"default"}` {
		t.Errorf("11-022 in a room of two: %s", a.JSON)
	}
	off, err := p.SetEnabled(PushOverride, ".m.rule.master", true)
	if err != nil || pushVerdict(off, two) != "quiet" {
		t.Error("11-006 the master rule turns all off", err)
	}
}

func TestPushRoomMention(t *testing.T) {
	ev := pushTestEvent(t, TypeMessage, `{"body":"x","m.mentions":{"room":true}}`, nil).event
	for level, want := range map[int]string{49: "notify", 50: "highlight", 100: "highlight"} {
		levels := testLevels(t, fmt.Sprintf(`{"users":{"@bob:domain":%d}}`, level))
		if got := pushVerdict(DefaultPushRules(pushOwner), NewPushEvent(ev, 9, levels)); got != want {
			t.Errorf("11-023 11-025 level %d: %s, want %s", level, got, want)
		}
	}
	strict := testLevels(t, `{"notifications":{"room":60},"users":{"@bob:domain":50}}`)
	if got := pushVerdict(DefaultPushRules(pushOwner), NewPushEvent(ev, 9, strict)); got != "notify" {
		t.Errorf("11-023 with a level of its own: %s", got)
	}
}

func testLevels(t testing.TB, content string) *PowerLevels {
	t.Helper()
	levels := Event{Rules: rulesV12, Type: TypePowerLevels, Content: canonicalContent(content)}
	p, err := ParsePowerLevels(rulesV12, nil, &levels)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// pushHolds asks one condition.
func pushHolds(t testing.TB, condition, content string) bool {
	t.Helper()
	r, err := ParsePushRule(PushOverride, "r", []byte(`{"actions":[],"conditions":[`+condition+`]}`))
	if err != nil {
		t.Fatal(err)
	}
	return r.matches(pushTestEvent(t, TypeMessage, content, nil), pushUser{pushOwner, "Alice (she)"})
}

func TestPushEventMatch(t *testing.T) {
	cases := []struct {
		key, pattern, value string
		want                bool
	}{
		{"content.topic", "lunc?*", `"Lunch plans"`, true},
		{"content.topic", "lunc?*", `"LUNCH"`, true},
		{"content.topic", "lunc?*", `" lunch"`, false},
		{"content.topic", "lunc?*", `"lunc"`, false},
		{"content.topic", "*", `null`, false},
		{"content.topic", "*", `1`, false},
		{"content.topic", "*", `""`, true},
		{"content.topic", "", `""`, true},
		{"content.topic", "", `"x"`, false},
		{"content.other", "*", `"x"`, false},
		{"content.topic", "É?Ω", `"é😀ω"`, true},
		{"content.topic", "k", `"\u212a"`, true},
		{"content.topic", "a\nb", `"A\nB"`, true},
		{"content.topic", `\*`, `"\\x"`, true},
		{"content.topic", "[a-z]", `"b"`, false},
		{"content.topic", "*a*b*", `"xbxaxb"`, true},
		{"content.topic", "*ab", `"abab"`, true},
		{"content.topic", "ab*ab", `"ab"`, false},
		{"content.body", "ex*ple", `"An example event."`, true},
		{"content.body", "ex*ple", `"exple"`, true},
		{"content.body", "ex*ple", `"An exciting triple-whammy"`, true},
		{"content.body", "cat", `"concatenate, cat"`, true},
		{"content.body", "cat", `"concatenate"`, false},
		{"content.body", "cat", `"cat_"`, false},
		{"content.body", "cat", `"écaté"`, true},
		{"content.body", "cat*", `"concat"`, false},
		{"content.body", "*cat", `"concat!"`, true},
		{"content.body", "c?t", `"a cöt."`, true},
		{"content.body", "@room", `"hi @Room!"`, true},
		{"content.body", "a*b", `"xa ab"`, true},
		{"content.body", "a*b", `"xa b"`, false},
		{"content.body", "a", `5`, false},
		{"type", "M.ROOM.*", `""`, true},
		{"sender", "@bob:domain", `""`, true},
		{"room_id", "!*", `""`, true},
		{"event_id", "$*", `""`, true},
		{"state_key", "*", `""`, false},
		{"hashes.sha256", "*", `""`, false},
		{"", "*", `""`, false},
	}
	for _, c := range cases {
		name := "content"
		if strings.HasPrefix(c.key, "content.b") {
			name = "body"
		} else {
			name = "topic"
		}
		condition, _ := json.Marshal(map[string]string{"kind": "event_match", "key": c.key, "pattern": c.pattern})
		if got := pushHolds(t, string(condition), `{"`+name+`":`+c.value+`}`); got != c.want {
			t.Errorf("11-019 %q against %q in %s: %v", c.pattern, c.value, c.key, got)
		}
	}
}

func TestPushConditions(t *testing.T) {
	cases := []struct {
		name, condition, content string
		want                     bool
	}{
		{"11-020 a boolean", `{"kind":"event_property_is","key":"content.m\\.federate","value":true}`, `{"m.federate":true}`, true},
		{"11-020 not the string true", `{"kind":"event_property_is","key":"content.m\\.federate","value":true}`, `{"m.federate":"true"}`, false},
		{"11-020 not one", `{"kind":"event_property_is","key":"content.m\\.federate","value":true}`, `{"m.federate":1}`, false},
		{"11-020 an integer", `{"kind":"event_property_is","key":"content.n","value":-7}`, `{"n":-7}`, true},
		{"11-020 not a string of digits", `{"kind":"event_property_is","key":"content.n","value":1}`, `{"n":"1"}`, false},
		{"11-020 null", `{"kind":"event_property_is","key":"content.n","value":null}`, `{"n":null}`, true},
		{"11-020 null is not absence", `{"kind":"event_property_is","key":"content.n","value":null}`, `{}`, false},
		{"11-020 case counts", `{"kind":"event_property_is","key":"content.n","value":"A"}`, `{"n":"a"}`, false},
		{"11-020 an escaped string", `{"kind":"event_property_is","key":"content.n","value":"\u0041\n"}`, `{"n":"A\n"}`, true},
		{"11-020 no objects", `{"kind":"event_property_is","key":"content.n","value":{}}`, `{"n":{}}`, false},
		{"11-020 no lists", `{"kind":"event_property_is","key":"content.n","value":[]}`, `{"n":[]}`, false},
		{"11-020 no floats", `{"kind":"event_property_is","key":"content.n","value":1.5}`, `{"n":1}`, false},
		{"11-020 no value", `{"kind":"event_property_is","key":"content.n"}`, `{}`, false},
		{"11-020 contains", `{"kind":"event_property_contains","key":"content.l","value":"b"}`, `{"l":["a","b"]}`, true},
		{"11-020 contains one of many types", `{"kind":"event_property_contains","key":"content.l","value":2}`, `{"l":[{},["2"],"2",null,2]}`, true},
		{"11-020 contains no part", `{"kind":"event_property_contains","key":"content.l","value":"b"}`, `{"l":["ab"]}`, false},
		{"11-020 contains only in lists", `{"kind":"event_property_contains","key":"content.l","value":"b"}`, `{"l":"b"}`, false},
		{"11-020 contains no lists", `{"kind":"event_property_contains","key":"content.l","value":"b"}`, `{"l":[["b"]]}`, false},
		{"11-021 a dot in a name", `{"kind":"event_match","key":"content.a\\.b.c","pattern":"x"}`, `{"a.b":{"c":"x"}}`, true},
		{"11-021 a dot between names", `{"kind":"event_match","key":"content.a.b.c","pattern":"x"}`, `{"a.b":{"c":"x"}}`, false},
		{"11-021 a backslash in a name", `{"kind":"event_match","key":"content.m\\\\foo","pattern":"x"}`, `{"m\\foo":"x"}`, true},
		{"11-021 another escape is none", `{"kind":"event_match","key":"content.m\\x","pattern":"x"}`, `{"m\\x":"x"}`, true},
		{"11-021 a backslash at the end", `{"kind":"event_match","key":"content.m\\","pattern":"x"}`, `{"m\\":"x"}`, true},
		{"11-021 a quote in a name", `{"kind":"event_match","key":"content.\"","pattern":"x"}`, `{"\"":"x"}`, true},
		{"11-021 an empty name", `{"kind":"event_match","key":"content.","pattern":"x"}`, `{"":"x"}`, true},
		{"11-021 through a list", `{"kind":"event_match","key":"content.a.0","pattern":"x"}`, `{"a":["x"]}`, false},
		{"11-021 through a string", `{"kind":"event_match","key":"content.a.b","pattern":"x"}`, `{"a":"x"}`, false},
		{"11-022 exactly", `{"kind":"room_member_count","is":"5"}`, `{}`, true},
		{"11-022 equal", `{"kind":"room_member_count","is":"==5"}`, `{}`, true},
		{"11-022 not equal", `{"kind":"room_member_count","is":"==6"}`, `{}`, false},
		{"11-022 less", `{"kind":"room_member_count","is":"<5"}`, `{}`, false},
		{"11-022 at most", `{"kind":"room_member_count","is":"<=5"}`, `{}`, true},
		{"11-022 more", `{"kind":"room_member_count","is":">5"}`, `{}`, false},
		{"11-022 at least", `{"kind":"room_member_count","is":">=5"}`, `{}`, true},
		{"11-022 another sign", `{"kind":"room_member_count","is":"=5"}`, `{}`, false},
		{"11-022 no number", `{"kind":"room_member_count","is":"<"}`, `{}`, false},
		{"11-022 a sign too many", `{"kind":"room_member_count","is":"<+9"}`, `{}`, false},
		{"11-022 a number as such", `{"kind":"room_member_count","is":5}`, `{}`, false},
		{"11-022 without is", `{"kind":"room_member_count"}`, `{}`, false},
		{"11-023 without levels", `{"kind":"sender_notification_permission","key":"room"}`, `{}`, false},
		{"11-024 an unknown kind", `{"kind":"org.example.moon","phase":"full"}`, `{}`, false},
		{"the display name", `{"kind":"contains_display_name"}`, `{"body":"hey alice (SHE), look"}`, true},
		{"a part of a word", `{"kind":"contains_display_name"}`, `{"body":"xAlice (she)"}`, false},
		{"without a body", `{"kind":"contains_display_name"}`, `{}`, false},
		{"all must hold", `{"kind":"room_member_count","is":"5"},{"kind":"room_member_count","is":"6"}`, `{}`, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := pushHolds(t, c.condition, c.content); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
	if !pushHolds(t, "", `{}`) {
		t.Error("a rule without conditions applies to all")
	}
}

func TestParsePushRuleRefuses(t *testing.T) {
	ok := `{"actions":["notify"],"conditions":[],"pattern":"x"}`
	for _, c := range []struct{ name, kind, id, body string }{
		{"11-010 a dot in front", "override", ".r", ok},
		{"11-010 a slash", "override", "a/b", ok},
		{"11-010 a backslash", "override", `a\b`, ok},
		{"11-010 no ID", "override", "", ok},
		{"11-011 no pattern", "content", "r", `{"actions":[]}`},
		{"11-011 a pattern that is no string", "content", "r", `{"actions":[],"pattern":1}`},
		{"11-011 a condition without kind", "override", "r", `{"actions":[],"conditions":[{"key":"type"}]}`},
		{"11-011 a condition that is no object", "underride", "r", `{"actions":[],"conditions":["x"]}`},
		{"11-011 conditions that are no list", "underride", "r", `{"actions":[],"conditions":{}}`},
		{"11-011 no actions", "room", "r", `{}`},
		{"11-011 actions that are no list", "room", "r", `{"actions":"notify"}`},
		{"11-011 an unknown action", "room", "r", `{"actions":["sing"]}`},
		{"11-011 an action that is a number", "room", "r", `{"actions":[1]}`},
		{"11-012 no conditions", "override", "r", `{"actions":[]}`},
		{"no JSON", "room", "r", `{`},
		{"no object", "room", "r", `[]`},
	} {
		if _, err := ParsePushRule(PushKind(c.kind), c.id, []byte(c.body)); err == nil || CodeOf(err).Status() != 400 {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := ParsePushKind("device"); CodeOf(err) != CodeInvalidParam {
		t.Errorf("11-002 %v", err)
	}
	if kind, err := ParsePushKind("underride"); err != nil || kind != PushUnderride {
		t.Error(kind, err)
	}
}

func TestPushActions(t *testing.T) {
	for raw, want := range map[string]PushActions{
		`[]`:                          {JSON: []byte(`[]`)},
		`["dont_notify"]`:             {JSON: []byte(`[]`)},
		`["notify", "coalesce"]`:      {JSON: []byte(`["notify"]`), Notify: true},
		`[{"set_tweak":"highlight"}]`: {JSON: []byte(`[{"set_tweak":"highlight"}]`), Highlight: true, Tweaks: []byte(`{"highlight":true}`)},
		`["notify",{"value":false,"set_tweak":"highlight"}]`: {
			JSON: []byte(`["notify",{"set_tweak":"highlight","value":false}]`), Notify: true, Tweaks: []byte(`{"highlight":false}`)},
		`[{"set_tweak":"sound"},{"own":1}]`: {JSON: []byte(`[{"set_tweak":"sound"},{"own":1}]`)},
		`[{"set_tweak":"sound","value":"a"},{"set_tweak":"light","value":{"c":0.5}}]`: {
			JSON:   []byte(`[{"set_tweak":"sound","value":"a"},{"set_tweak":"light","value":{"c":0.5}}]`),
			Tweaks: []byte(`{"light":{"c":0.5},"sound":"a"}`)},
	} {
		if got, err := ParsePushActions([]byte(raw)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("11-013 %s: %+v, %v, tweaks %s", raw, got, err, got.Tweaks)
		}
	}
}

// mustPut makes rules of content patterns, so that the ID is the pattern too.
func mustPut(t testing.TB, p *PushRules, id string, place PushPlace) *PushRules {
	t.Helper()
	r, err := ParsePushRule(PushContent, id, []byte(`{"actions":["notify",{"set_tweak":"highlight"}],"pattern":"`+id+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	if p, err = p.Put(r, place); err != nil {
		t.Fatal(err)
	}
	return p
}

func pushIDs(p *PushRules, kind PushKind) (ids string) {
	for _, r := range p.Rules(kind) {
		ids += r.ID + " "
	}
	return strings.TrimSpace(ids)
}

func TestPushRulesEdit(t *testing.T) {
	start := DefaultPushRules(pushOwner)
	p := mustPut(t, start, "a", PushPlace{})
	p = mustPut(t, p, "b", PushPlace{})
	p = mustPut(t, p, "c", PushPlace{After: "b"})
	p = mustPut(t, p, "d", PushPlace{Before: "a"})
	if got := pushIDs(p, PushContent); got != "b c d a" {
		t.Errorf("11-008 11-009 %s", got)
	}
	if moved := mustPut(t, p, "b", PushPlace{After: "d"}); pushIDs(moved, PushContent) != "c d b a" {
		t.Errorf("11-009 moved: %s", pushIDs(moved, PushContent))
	}
	off, err := p.SetEnabled(PushContent, "c", false)
	if err != nil {
		t.Fatal(err)
	}
	again := mustPut(t, off, "c", PushPlace{})
	if r, err := again.Rule(PushContent, "c"); err != nil || r.Enabled || pushIDs(again, PushContent) != "b c d a" {
		t.Errorf("11-008 in place: %+v, %v, %s", r, err, pushIDs(again, PushContent))
	}
	for place, want := range map[PushPlace]Code{
		{Before: ".m.rule.master"}: CodeInvalidParam, {After: ".x"}: CodeInvalidParam, {Before: "z"}: CodeNotFound, {After: "c"}: CodeNotFound,
	} {
		r, _ := p.Rule(PushContent, "c")
		if _, err := p.Put(r, place); CodeOf(err) != want {
			t.Errorf("11-009 %+v: %v", place, err)
		}
	}
	gone, err := p.Delete(PushContent, "c")
	if err != nil || pushIDs(gone, PushContent) != "b d a" || pushIDs(p, PushContent) != "b c d a" {
		t.Errorf("11-014 %s, %v", pushIDs(gone, PushContent), err)
	}
	for id, want := range map[string]Code{"c": CodeNotFound, ".m.rule.master": CodeNotFound} {
		if _, err := gone.Delete(PushContent, id); CodeOf(err) != want {
			t.Errorf("11-014 delete %s: %v", id, err)
		}
	}
	if _, err := gone.Delete(PushOverride, ".m.rule.master"); CodeOf(err) != CodeInvalidParam {
		t.Errorf("11-014 %v", err)
	}
	if string(start.Stored()) != "{}" || pushIDs(start, PushContent) != "" {
		t.Error("11-007 the rules that were edited have changed")
	}
}

func TestPushRulesChangeDefaults(t *testing.T) {
	p, err := DefaultPushRules(pushOwner).SetEnabled(PushUnderride, ".m.rule.message", false)
	if err != nil || pushVerdict(p, pushTestEvent(t, TypeMessage, `{}`, nil)) != "none" {
		t.Errorf("11-015 %v", err)
	}
	actions, err := ParsePushActions([]byte(`["notify",{"set_tweak":"highlight"}]`))
	if err != nil {
		t.Fatal(err)
	}
	if p, err = p.SetActions(PushUnderride, ".m.rule.encrypted", actions); err != nil {
		t.Fatal(err)
	}
	if got := pushVerdict(p, pushTestEvent(t, TypeEncrypted, `{}`, nil)); got != "highlight" {
		t.Errorf("11-016 %s", got)
	}
	if r, err := p.Rule(PushUnderride, ".m.rule.encrypted"); err != nil || !r.Default || string(r.Actions.JSON) != string(actions.JSON) {
		t.Errorf("11-016 %+v, %v", r, err)
	}
	if _, err := p.SetEnabled(PushContent, "x", true); CodeOf(err) != CodeNotFound {
		t.Errorf("11-015 %v", err)
	}
	if _, err := p.SetActions(PushOverride, ".m.rule.message", actions); CodeOf(err) != CodeNotFound {
		t.Errorf("11-016 of the wrong kind: %v", err)
	}
	p = mustPut(t, p, "tea", PushPlace{})
	if p, err = p.SetActions(PushContent, "tea", PushActions{JSON: []byte("[]")}); err != nil {
		t.Fatal(err)
	}
	p, _ = p.SetEnabled(PushContent, "tea", false)
	want := `{"content":[{"actions":[],"default":false,"enabled":false,"pattern":"tea","rule_id":"tea"}],` +
		`"defaults":{".m.rule.encrypted":{"actions":["notify",{"set_tweak":"highlight"}]},".m.rule.message":{"enabled":false}}}`
	if string(p.Stored()) != want {
		t.Errorf("stored %s", p.Stored())
	}
	loaded, err := LoadPushRules(pushOwner, p.Stored())
	if err != nil || string(loaded.AppendJSON(nil)) != string(p.AppendJSON(nil)) {
		t.Errorf("loaded %s, %v", loaded.AppendJSON(nil), err)
	}
	if loaded, err = LoadPushRules(pushOwner, []byte(`{"defaults":{".m.rule.gone":{"enabled":false}}}`)); err != nil || string(loaded.Stored()) != "{}" {
		t.Errorf("rules that are no more: %v", err)
	}
	for _, bad := range []string{``, `{"room":[{}]}`, `{"defaults":{".m.rule.call":{"actions":1}}}`} {
		if _, err := LoadPushRules(pushOwner, []byte(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestPushOrder(t *testing.T) {
	room := testMessage(rulesV12).Room
	put := func(p *PushRules, kind PushKind, id, body string) *PushRules {
		r, err := ParsePushRule(kind, id, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if p, err = p.Put(r, PushPlace{}); err != nil {
			t.Fatal(err)
		}
		return p
	}
	say := pushTestEvent(t, TypeMessage, `{"body":"Time for Tea!"}`, nil)
	p := put(DefaultPushRules(pushOwner), PushSender, "@bob:domain", `{"actions":["notify",{"set_tweak":"highlight"}]}`)
	if got := pushVerdict(p, say); got != "highlight" {
		t.Errorf("11-018 sender before underride: %s", got)
	}
	p = put(p, PushRoom, string(room), `{"actions":["dont_notify"]}`)
	if got := pushVerdict(p, say); got != "quiet" {
		t.Errorf("11-018 11-026 a muted room: %s", got)
	}
	mention := pushTestEvent(t, TypeMessage, `{"body":"x","m.mentions":{"user_ids":["@alice:domain"]}}`, nil)
	if got := pushVerdict(p, mention); got != "highlight" {
		t.Errorf("11-026 a mention in a muted room: %s", got)
	}
	p = put(p, PushContent, "tea", `{"actions":["notify"],"pattern":"tea"}`)
	if got := pushVerdict(p, say); got != "notify" {
		t.Errorf("11-018 content before room: %s", got)
	}
	p = put(p, PushOverride, "quiet", `{"actions":[],"conditions":[]}`)
	if got := pushVerdict(p, say); got != "quiet" {
		t.Errorf("11-018 override before content: %s", got)
	}
	if got := pushIDs(p, PushOverride); !strings.HasPrefix(got, ".m.rule.master quiet .m.rule.suppress_notices") {
		t.Errorf("11-006 %s", got)
	}
}

func TestPushEvaluateAllocatesNothing(t *testing.T) {
	ev := pushTestEvent(t, TypeMessage, `{"body":"hello there","msgtype":"m.text"}`, nil)
	p := mustPut(t, DefaultPushRules(pushOwner), "tea", PushPlace{})
	if n := testing.AllocsPerRun(100, func() { p.Evaluate(ev, "Alice") }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPushEvaluate(b *testing.B) {
	ev := pushTestEvent(b, TypeMessage, `{"body":"`+strings.Repeat("lorem ipsum ", 20)+`","msgtype":"m.text"}`, nil)
	p := mustPut(b, DefaultPushRules(pushOwner), "tea", PushPlace{})
	b.ReportAllocs()
	for b.Loop() {
		p.Evaluate(ev, "Alice")
	}
}

func BenchmarkPushFirstUser(b *testing.B) {
	ev := pushTestEvent(b, TypeMessage, `{"body":"`+strings.Repeat("lorem ipsum ", 20)+`","msgtype":"m.text"}`, nil)
	p := DefaultPushRules(pushOwner)
	b.ReportAllocs()
	for b.Loop() {
		p.Evaluate(NewPushEvent(ev.event, 9, nil), "Alice")
	}
}

// FuzzPushGlob compares with regular expressions that say the same.
func FuzzPushGlob(f *testing.F) {
	for _, seed := range [][2]string{{"ex*ple", "An exciting triple-whammy"}, {"?a*", "éab"}, {"a*b", "xa ab"}, {"", ""}, {"**", "_"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern)+len(s) > 200 || !validIDText(pattern) || !validIDText(s) {
			return
		}
		expr := regexp.QuoteMeta(pattern)
		expr = strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(expr)
		g := newPushGlob(pattern)
		if want := regexp.MustCompile(`(?is)\A(?:` + expr + `)\z`).MatchString(s); g.matches([]byte(s)) != want {
			t.Errorf("%q against %q: %v", pattern, s, !want)
		}
		// A part between two word boundaries, by trying all.
		word := regexp.MustCompile(`(?is)\A(?:` + expr + `)\z`)
		boundary := func(i int) bool { return i == 0 || i == len(s) || !isWordByte(s[i-1]) || !isWordByte(s[i]) }
		starts := []int{len(s)}
		for i := range s {
			starts = append(starts, i)
		}
		want := slices.ContainsFunc(starts, func(i int) bool {
			return boundary(i) && slices.ContainsFunc(starts, func(j int) bool { return j >= i && boundary(j) && word.MatchString(s[i:j]) })
		})
		if g.matchesWords([]byte(s)) != want {
			t.Errorf("words: %q against %q: %v", pattern, s, !want)
		}
	})
}

func FuzzPushRule(f *testing.F) {
	f.Add("override", "r", []byte(`{"actions":["notify",{"set_tweak":"sound","value":"x"}],"conditions":[{"kind":"event_match","key":"content.body","pattern":"a*"}]}`))
	f.Add("content", "r", []byte(`{"actions":["dont_notify"],"pattern":"?"}`))
	f.Add("underride", "r", []byte(`{"actions":[],"conditions":[{"kind":"room_member_count","is":">=2"},{"kind":"event_property_is","key":"a\\.b","value":null}]}`))
	ev := pushTestEvent(f, TypeMessage, `{"body":"an apple","a.b":null,"l":[1,"x",{}]}`, nil)
	f.Fuzz(func(t *testing.T, kind, id string, body []byte) {
		r, err := ParsePushRule(PushKind(kind), id, body)
		if err != nil {
			return
		}
		if _, err := ParsePushKind(kind); err != nil {
			return
		}
		p, err := DefaultPushRules(pushOwner).Put(r, PushPlace{})
		if err != nil {
			t.Fatal(err)
		}
		stored := p.Stored()
		loaded, err := LoadPushRules(pushOwner, stored)
		if err != nil || string(loaded.Stored()) != string(stored) {
			t.Fatalf("%q stored as %s: %v", body, stored, err)
		}
		one, oneOK := p.Evaluate(ev, "Apple")
		two, twoOK := loaded.Evaluate(ev, "Apple")
		if oneOK != twoOK || string(one.JSON) != string(two.JSON) {
			t.Fatalf("%q does something else after it was stored", body)
		}
	})
}
