package spec

import (
	"slices"
)

// PushRules are all push rules of one user: those that the user made, and the
// defaults as the user changed them. A value is never changed: what edits it
// returns another one. Spec: client-server-api#push-rules
type PushRules struct {
	owner UserID
	own   map[PushKind][]PushRule // most important first
	// changed are defaults that are not as they were, by ID, which is unique among
	// all kinds of defaults.
	changed map[string]changedRule
}

// changedRule is what a user has changed about a default rule.
type changedRule struct {
	enabled *bool
	actions *PushActions
}

// DefaultPushRules are the rules of a user who has changed nothing.
func DefaultPushRules(owner UserID) *PushRules {
	return &PushRules{owner: owner}
}

// LoadPushRules reads what Stored wrote. Changes to defaults that are no more are
// dropped. An error means that the bytes are damaged.
func LoadPushRules(owner UserID, stored []byte) (*PushRules, error) {
	canon, err := CanonicalLegacy(stored)
	if err != nil {
		return nil, err
	}
	p := DefaultPushRules(owner)
	for _, kind := range pushKinds {
		for object := range elements(get(canon, string(kind))) {
			id, _ := getText(object, "rule_id")
			r, err := ParsePushRule(kind, id, object)
			if err != nil {
				return nil, err
			}
			r.Enabled = string(get(object, "enabled")) != "false"
			p = p.withOwn(kind, append(slices.Clip(p.own[kind]), r))
		}
	}
	for id, object := range textMembers(get(canon, "defaults")) {
		if _, ok := defaultRule(id); !ok {
			continue
		}
		var c changedRule
		if enabled := get(object, "enabled"); enabled != nil {
			c.enabled = new(string(enabled) == "true")
		}
		if actions := get(object, "actions"); actions != nil {
			parsed, err := ParsePushActions(actions)
			if err != nil {
				return nil, err
			}
			c.actions = &parsed
		}
		p = p.withChanged(id, c)
	}
	return p, nil
}

// Stored is all that differs from the defaults, as a canonical JSON object.
func (p *PushRules) Stored() []byte {
	dst := []byte{'{'}
	for _, kind := range []PushKind{PushContent, "", PushOverride, PushRoom, PushSender, PushUnderride} { // by name
		switch {
		case kind == "" && len(p.changed) > 0:
			dst = p.appendChanged(appendKey(dst, "defaults"))
		case len(p.own[kind]) > 0:
			dst = p.appendRules(appendKey(dst, string(kind)), p.own[kind])
		}
	}
	return append(dst, '}')
}

func (p *PushRules) appendChanged(dst []byte) []byte {
	ids := make([]string, 0, len(p.changed))
	for id := range p.changed {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	dst = append(dst, '{')
	for _, id := range ids {
		dst = append(appendKey(dst, id), '{')
		if c := p.changed[id]; c.actions != nil {
			dst = appendMember(dst, "actions", c.actions.JSON)
		}
		if c := p.changed[id]; c.enabled != nil {
			dst = appendMember(dst, "enabled", jsonBool(*c.enabled))
		}
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

func (p *PushRules) appendRules(dst []byte, rules []PushRule) []byte {
	dst = append(dst, '[')
	for i := range rules {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = rules[i].AppendJSON(dst, p.owner)
	}
	return append(dst, ']')
}

// AppendJSON appends the ruleset as clients get it: what stands at "global".
// Spec: client-server-api#get_matrixclientv3pushrules
func (p *PushRules) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	for _, kind := range []PushKind{PushContent, PushOverride, PushRoom, PushSender, PushUnderride} { // by name
		dst = p.AppendKind(appendKey(dst, string(kind)), kind)
	}
	return append(dst, '}')
}

// AppendKind appends the list of the rules of a kind as clients get it.
func (p *PushRules) AppendKind(dst []byte, kind PushKind) []byte {
	return p.appendRules(dst, p.Rules(kind))
}

// Rules returns the rules of a kind, the most important first: those of the user,
// then the defaults, but .m.rule.master before everything. The slice is the
// caller's. Spec: client-server-api#predefined-rules
func (p *PushRules) Rules(kind PushKind) []PushRule {
	own, defaults := p.own[kind], defaultPushRules[kind]
	out := make([]PushRule, 0, len(own)+len(defaults))
	if kind == PushOverride {
		out = append(out, p.changedDefault(&defaults[0]))
		defaults = defaults[1:]
	}
	out = append(out, own...)
	for i := range defaults {
		out = append(out, p.changedDefault(&defaults[i]))
	}
	return out
}

// changedDefault is a default rule as the user has it.
func (p *PushRules) changedDefault(r *PushRule) PushRule {
	rule, c := *r, p.changed[r.ID]
	if c.enabled != nil {
		rule.Enabled = *c.enabled
	}
	if c.actions != nil {
		rule.Actions = *c.actions
	}
	return rule
}

// defaultRule finds a default rule in whatever kind.
func defaultRule(id string) (*PushRule, bool) {
	for _, rules := range defaultPushRules {
		for i := range rules {
			if rules[i].ID == id {
				return &rules[i], true
			}
		}
	}
	return nil, false
}

// Rule returns one rule. The error is an *Error with CodeNotFound.
func (p *PushRules) Rule(kind PushKind, id string) (PushRule, error) {
	if i := p.indexOwn(kind, id); i >= 0 {
		return p.own[kind][i], nil
	}
	if r, ok := defaultRule(id); ok && r.kind == kind {
		return p.changedDefault(r), nil
	}
	return PushRule{}, Errorf(CodeNotFound, nil, "there is no such push rule")
}

func (p *PushRules) indexOwn(kind PushKind, id string) int {
	return slices.IndexFunc(p.own[kind], func(r PushRule) bool { return r.ID == id })
}

// PushPlace says where a rule of a user goes: next to another rule of that user,
// more important (Before) or less (After). With neither a new rule becomes the
// most important, and one that exists stays where it is.
type PushPlace struct{ Before, After string }

// Put adds a rule that ParsePushRule made, or replaces the one that has its ID,
// which stays disabled if it was. Errors are *Error: CodeInvalidParam where the
// place is relative to a default rule, CodeNotFound where that rule is not there.
// Spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleid
func (p *PushRules) Put(r PushRule, place PushPlace) (*PushRules, error) {
	rules, at := slices.Clone(p.own[r.kind]), 0
	if i := p.indexOwn(r.kind, r.ID); i >= 0 {
		r.Enabled = rules[i].Enabled
		rules, at = slices.Delete(rules, i, i+1), i
	}
	if beside := place.Before + place.After; beside != "" {
		if place.Before != "" {
			beside = place.Before
		}
		if beside[0] == '.' {
			return nil, Errorf(CodeInvalidParam, nil, "a rule cannot be put next to one of the server")
		}
		at = slices.IndexFunc(rules, func(r PushRule) bool { return r.ID == beside })
		if at < 0 {
			return nil, Errorf(CodeNotFound, nil, "there is no rule %q of this kind to put the rule next to", clip(beside))
		}
		if place.Before == "" {
			at++
		}
	}
	return p.withOwn(r.kind, slices.Insert(rules, at, r)), nil
}

// Delete removes a rule of the user. Errors are *Error: CodeNotFound where there
// is none, CodeInvalidParam for a default rule.
// Spec: client-server-api#delete_matrixclientv3pushrulesglobalkindruleid
func (p *PushRules) Delete(kind PushKind, id string) (*PushRules, error) {
	i := p.indexOwn(kind, id)
	if i < 0 {
		if _, err := p.Rule(kind, id); err != nil {
			return nil, err
		}
		return nil, Errorf(CodeInvalidParam, nil, "the rules of the server can be disabled but not deleted")
	}
	return p.withOwn(kind, slices.Delete(slices.Clone(p.own[kind]), i, i+1)), nil
}

// SetEnabled turns a rule on or off. The error is an *Error with CodeNotFound.
// Spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleidenabled
func (p *PushRules) SetEnabled(kind PushKind, id string, enabled bool) (*PushRules, error) {
	return p.edit(kind, id, func(r *PushRule) { r.Enabled = enabled }, func(c *changedRule) { c.enabled = &enabled })
}

// SetActions replaces the actions of a rule. The error is an *Error with
// CodeNotFound. Spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleidactions
func (p *PushRules) SetActions(kind PushKind, id string, actions PushActions) (*PushRules, error) {
	return p.edit(kind, id, func(r *PushRule) { r.Actions = actions }, func(c *changedRule) { c.actions = &actions })
}

func (p *PushRules) edit(kind PushKind, id string, own func(*PushRule), change func(*changedRule)) (*PushRules, error) {
	if i := p.indexOwn(kind, id); i >= 0 {
		rules := slices.Clone(p.own[kind])
		own(&rules[i])
		return p.withOwn(kind, rules), nil
	}
	if _, err := p.Rule(kind, id); err != nil {
		return nil, err
	}
	c := p.changed[id]
	change(&c)
	return p.withChanged(id, c), nil
}

func (p *PushRules) withOwn(kind PushKind, rules []PushRule) *PushRules {
	out := &PushRules{owner: p.owner, changed: p.changed, own: map[PushKind][]PushRule{kind: rules}}
	for k, r := range p.own {
		if k != kind {
			out.own[k] = r
		}
	}
	return out
}

func (p *PushRules) withChanged(id string, c changedRule) *PushRules {
	out := &PushRules{owner: p.owner, own: p.own, changed: map[string]changedRule{id: c}}
	for k, v := range p.changed {
		if k != id {
			out.changed[k] = v
		}
	}
	return out
}

// Evaluate returns the actions of the first enabled rule that applies to the
// event, and false if none does; a user's own events have none. displayName is
// the user's name in the room, "" if there is none. Whether the user may see the
// event at all is for the caller to know. It allocates nothing for the usual
// rules and events. Spec: client-server-api#push-rules
func (p *PushRules) Evaluate(ev *PushEvent, displayName string) (PushActions, bool) {
	user := pushUser{ID: p.owner, DisplayName: displayName}
	if ev.event.Sender == user.ID {
		return PushActions{}, false
	}
	for _, kind := range pushKinds {
		defaults := defaultPushRules[kind]
		if kind == PushOverride { // .m.rule.master
			if actions, ok := p.tryDefault(&defaults[0], ev, user); ok {
				return actions, true
			}
			defaults = defaults[1:]
		}
		own := p.own[kind]
		for i := range own {
			if own[i].Enabled && own[i].matches(ev, user) {
				return own[i].Actions, true
			}
		}
		for i := range defaults {
			if actions, ok := p.tryDefault(&defaults[i], ev, user); ok {
				return actions, true
			}
		}
	}
	return PushActions{}, false
}

// tryDefault applies a default rule as the user has it.
func (p *PushRules) tryDefault(r *PushRule, ev *PushEvent, user pushUser) (PushActions, bool) {
	enabled, actions := r.Enabled, &r.Actions
	if len(p.changed) > 0 {
		c := p.changed[r.ID]
		if c.enabled != nil {
			enabled = *c.enabled
		}
		if c.actions != nil {
			actions = c.actions
		}
	}
	if !enabled || !r.matches(ev, user) {
		return PushActions{}, false
	}
	return *actions, true
}
