package spec

import (
	"bytes"
	"slices"
	"strings"
)

// PushKind is a kind of push rule.
// Spec: client-server-api#push-rules
type PushKind string

// The kinds of push rules.
const (
	PushOverride  PushKind = "override"
	PushContent   PushKind = "content"
	PushRoom      PushKind = "room"
	PushSender    PushKind = "sender"
	PushUnderride PushKind = "underride"
)

// pushKinds are in the order in which rules are tried.
var pushKinds = [...]PushKind{PushOverride, PushContent, PushRoom, PushSender, PushUnderride}

// ParsePushKind reads a kind. The error is an *Error with CodeInvalidParam.
func ParsePushKind(s string) (PushKind, error) {
	if !slices.Contains(pushKinds[:], PushKind(s)) {
		return "", Errorf(CodeInvalidParam, nil, "%q is not a kind of push rule", clip(s))
	}
	return PushKind(s), nil
}

// hasConditions tells whether rules of the kind list their conditions.
func (k PushKind) hasConditions() bool { return k == PushOverride || k == PushUnderride }

// PushActions is what a rule does with events that match. It is immutable.
// Spec: client-server-api#actions
type PushActions struct {
	// JSON is the canonical array, without the historical actions that mean nothing.
	JSON []byte
	// Notify: the event generates a notification.
	Notify bool
	// Highlight: the notification is to be highlighted.
	Highlight bool
	// Tweaks is the canonical object for push gateways; nil if there are none.
	Tweaks []byte
}

// ParsePushActions reads a list of actions. Errors are *Error with CodeBadJSON or
// CodeInvalidParam. Spec: client-server-api#actions
func ParsePushActions(raw []byte) (PushActions, error) {
	canon, err := CanonicalLegacy(raw)
	if err != nil {
		return PushActions{}, Errorf(CodeBadJSON, err, "the actions are not valid JSON")
	}
	if !isArray(canon) {
		return PushActions{}, Errorf(CodeInvalidParam, nil, "actions must be a list")
	}
	a := PushActions{JSON: []byte{'['}}
	for value := range elements(canon) {
		name, isText := text(value)
		switch {
		case name == "dont_notify" || name == "coalesce":
			continue // Spec: client-server-api#historical-actions
		case name == "notify":
			a.Notify = true
		case isText || !isObject(value):
			return PushActions{}, Errorf(CodeInvalidParam, nil, "%s is not an action", clip(string(value)))
		default:
			a.tweak(value)
		}
		if len(a.JSON) > 1 {
			a.JSON = append(a.JSON, ',')
		}
		a.JSON = append(a.JSON, value...)
	}
	a.JSON = append(a.JSON, ']')
	return a, nil
}

// tweak takes in a set_tweak. A highlight without a value is true, other tweaks
// are nothing without one.
func (a *PushActions) tweak(object []byte) {
	name, ok := getText(object, "set_tweak")
	if !ok {
		return
	}
	value := get(object, "value")
	if name == "highlight" {
		if value == nil {
			value = []byte("true")
		}
		a.Highlight = string(value) == "true"
	}
	if value == nil {
		return
	}
	if a.Tweaks == nil {
		a.Tweaks = []byte("{}")
	}
	a.Tweaks = withMember(a.Tweaks, name, value)
}

// PushRule is one push rule. It is immutable.
// Spec: client-server-api#push-rules
type PushRule struct {
	ID      string
	Default bool // one of the server, not of the user
	Enabled bool
	Actions PushActions

	// conditions is the canonical list, of override and underride rules.
	conditions []byte
	// pattern is that of content rules.
	pattern string

	kind PushKind
	all  []pushCondition
	glob pushGlob
}

// ParsePushRule reads the body of a request to make a rule of a user. The rule is
// enabled. Errors are *Error with CodeInvalidParam, CodeMissingParam or
// CodeBadJSON. Spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleid
func ParsePushRule(kind PushKind, id string, body []byte) (PushRule, error) {
	switch {
	case id == "":
		return PushRule{}, Errorf(CodeInvalidParam, nil, "a push rule needs an ID")
	case id[0] == '.':
		return PushRule{}, Errorf(CodeInvalidParam, nil, "IDs of push rules that begin with a dot are the server's")
	case strings.ContainsAny(id, `/\`) || !validIDText(id):
		return PushRule{}, Errorf(CodeInvalidParam, nil, "the ID of a push rule has neither / nor \\, and is UTF-8")
	}
	return parsePushRule(kind, id, body)
}

func parsePushRule(kind PushKind, id string, body []byte) (PushRule, error) {
	canon, err := CanonicalLegacy(body)
	if err != nil || !isObject(canon) {
		return PushRule{}, Errorf(CodeBadJSON, err, "a push rule is a JSON object")
	}
	actions := get(canon, "actions")
	if actions == nil {
		return PushRule{}, Errorf(CodeMissingParam, nil, "the push rule has no actions")
	}
	r := PushRule{ID: id, Enabled: true, kind: kind}
	if r.Actions, err = ParsePushActions(actions); err != nil {
		return PushRule{}, err
	}
	switch {
	case kind.hasConditions():
		err = r.parseConditions(get(canon, "conditions"))
	case kind == PushContent:
		pattern, ok := getText(canon, "pattern")
		if !ok {
			return PushRule{}, Errorf(CodeMissingParam, nil, "a content rule needs a pattern")
		}
		r.pattern, r.glob = pattern, newPushGlob(pattern)
	}
	return r, err
}

func (r *PushRule) parseConditions(list []byte) error {
	if list == nil {
		return Errorf(CodeMissingParam, nil, "the push rule has no conditions")
	}
	if !isArray(list) {
		return Errorf(CodeInvalidParam, nil, "conditions must be a list")
	}
	for object := range elements(list) {
		if _, ok := getText(object, "kind"); !ok {
			return Errorf(CodeInvalidParam, nil, "a condition of the push rule has no kind")
		}
		r.all = append(r.all, parseCondition(object))
	}
	r.conditions = bytes.Clone(list)
	return nil
}

// matches tells whether an enabled rule applies to the event.
// Spec: client-server-api#push-rules
func (r *PushRule) matches(p *PushEvent, user pushUser) bool {
	switch r.kind {
	case PushContent:
		body, ok := p.body()
		return ok && r.glob.matchesWords(body)
	case PushRoom:
		return r.ID == string(p.event.Room)
	case PushSender:
		return r.ID == string(p.event.Sender)
	}
	for i := range r.all {
		if !r.all[i].holds(p, user) {
			return false
		}
	}
	return true
}

// AppendJSON appends the rule as clients get it, in canonical form. owner is the
// user whose rule it is.
func (r *PushRule) AppendJSON(dst []byte, owner UserID) []byte {
	dst = appendMember(append(dst, '{'), "actions", r.Actions.JSON)
	if r.kind.hasConditions() {
		dst = appendMember(dst, "conditions", r.conditionsFor(owner))
	}
	dst = appendMember(dst, "default", jsonBool(r.Default))
	dst = appendMember(dst, "enabled", jsonBool(r.Enabled))
	if r.kind == PushContent {
		dst = appendText(dst, "pattern", r.pattern)
	}
	return append(appendText(dst, "rule_id", r.ID), '}')
}

// conditionsFor puts the owner's ID where a default rule has the place for it.
func (r *PushRule) conditionsFor(owner UserID) []byte {
	if !r.Default {
		return r.conditions
	}
	return bytes.ReplaceAll(r.conditions, []byte(`"`+selfPlaceholder+`"`), appendQuoted(nil, string(owner)))
}

func jsonBool(b bool) []byte {
	if b {
		return []byte("true")
	}
	return []byte("false")
}
