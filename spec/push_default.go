package spec

// defaultPushRules are the rules of the server, per kind and in their order. They
// are the same for everybody: where a rule is about its owner, its condition says
// so. Spec: client-server-api#predefined-rules
var defaultPushRules = map[PushKind][]PushRule{
	// Spec: client-server-api#default-override-rules
	PushOverride: {
		pushRuleOff(defaultPushRule(PushOverride, ".m.rule.master", `[]`)),
		defaultPushRule(PushOverride, ".m.rule.suppress_notices", `[]`, pushMatch("content.msgtype", "m.notice")),
		defaultPushRule(PushOverride, ".m.rule.invite_for_me", `["notify",{"set_tweak":"sound","value":"default"}]`,
			pushMatch("type", TypeMember), pushMatch("content.membership", "invite"), pushMatch("state_key", selfPlaceholder)),
		defaultPushRule(PushOverride, ".m.rule.member_event", `[]`, pushMatch("type", TypeMember)),
		defaultPushRule(PushOverride, ".m.rule.is_user_mention",
			`["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]`,
			`{"key":"content.m\\.mentions.user_ids","kind":"event_property_contains","value":"`+selfPlaceholder+`"}`),
		defaultPushRule(PushOverride, ".m.rule.is_room_mention", `["notify",{"set_tweak":"highlight"}]`,
			`{"key":"content.m\\.mentions.room","kind":"event_property_is","value":true}`,
			`{"key":"room","kind":"sender_notification_permission"}`),
		defaultPushRule(PushOverride, ".m.rule.tombstone", `["notify",{"set_tweak":"highlight"}]`,
			pushMatch("type", "m.room.tombstone"), pushMatch("state_key", "")),
		defaultPushRule(PushOverride, ".m.rule.reaction", `[]`, pushMatch("type", TypeReaction)),
		defaultPushRule(PushOverride, ".m.rule.room.server_acl", `[]`,
			pushMatch("type", TypeServerACL), pushMatch("state_key", "")),
		defaultPushRule(PushOverride, ".m.rule.suppress_edits", `[]`,
			`{"key":"content.m\\.relates_to.rel_type","kind":"event_property_is","value":"m.replace"}`),
	},
	// Spec: client-server-api#default-underride-rules
	PushUnderride: {
		defaultPushRule(PushUnderride, ".m.rule.call", `["notify",{"set_tweak":"sound","value":"ring"}]`,
			pushMatch("type", "m.call.invite")),
		defaultPushRule(PushUnderride, ".m.rule.encrypted_room_one_to_one", `["notify",{"set_tweak":"sound","value":"default"}]`,
			pushOneToOne, pushMatch("type", TypeEncrypted)),
		defaultPushRule(PushUnderride, ".m.rule.room_one_to_one", `["notify",{"set_tweak":"sound","value":"default"}]`,
			pushOneToOne, pushMatch("type", TypeMessage)),
		defaultPushRule(PushUnderride, ".m.rule.message", `["notify"]`, pushMatch("type", TypeMessage)),
		defaultPushRule(PushUnderride, ".m.rule.encrypted", `["notify"]`, pushMatch("type", TypeEncrypted)),
	},
}

const pushOneToOne = `{"is":"2","kind":"room_member_count"}`

func pushMatch(key, pattern string) string {
	return `{"key":"` + key + `","kind":"event_match","pattern":"` + pattern + `"}`
}

// defaultPushRule makes a rule of the server of conditions in canonical JSON.
func defaultPushRule(kind PushKind, id, actions string, conditions ...string) PushRule {
	list := []byte{'['}
	for i, c := range conditions {
		if i > 0 {
			list = append(list, ',')
		}
		list = append(list, c...)
	}
	r := PushRule{ID: id, Default: true, Enabled: true, kind: kind}
	if err := r.parseConditions(append(list, ']')); err != nil {
		panic(err) // the tables above are wrong
	}
	var err error
	if r.Actions, err = ParsePushActions([]byte(actions)); err != nil {
		panic(err)
	}
	i := 0
	for object := range elements(r.conditions) {
		pattern, _ := getText(object, "pattern")
		value, _ := getText(object, "value")
		r.all[i].self = pattern == selfPlaceholder || value == selfPlaceholder
		i++
	}
	return r
}

func pushRuleOff(r PushRule) PushRule {
	r.Enabled = false
	return r
}
