package spec

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// This file reads event graphs written as text, testdata/*.graph:
//
//	# What the graph shows, in a sentence. Lines with # in front are comments.
//	versions: 10 11 12
//
//	create -> alice -> levels -> public -> bob -> topicB
//	                                     | -> banBob
//
//	levels: content={"users":{"@bob:b":50}}
//	topicB: sender=bob ts=9
//
//	want 10 11: m.room.member/@bob:b=banBob m.room.topic=-
//
// An arrow goes from an event to one that names it in prev_events. A line that
// begins with | goes on from the event above the |. An event that stands in
// several places has several previous events.
//
// Names say what an event is, see define; lines "name: field=value …" change it:
//
//	sender=bob type=T key=K ts=N redacts=e
//	                               fields of the event; content={…} comes last, in
//	                               which "@alice:a":100 drops out where Alice, who
//	                               creates the room, is above all levels
//	auth=a,b                       auth_events; else they are selected
//	after.T/K=e                    state after the event as this server has it from
//	                               somebody else, - for none; events that follow
//	                               are checked against the true state
//	rejected                       the event must be refused; all others must not.
//	                               rejected=1,2 says so of these versions only
//
// Events are timed in the order in which the text first names them. At the end
// the states after all events without successors are resolved, or of those that
// a line "resolve: a b" names. Each key on which they differ is in "want", which
// may be given by version; - is absent. "ways: differ" says that resolving in
// steps may come to something else than resolving all at once.
type graph struct {
	rules    *Rules
	order    []EventID // of first mention
	events   map[EventID]*Event
	prev     map[EventID][]EventID // also of the create event, in order of mention
	after    map[EventID]stateMap  // the true state after each event
	held     map[EventID]stateMap  // what this server has instead, see after.T/K
	rejected map[EventID]bool
	tips     []EventID
	want     stateMap // "" is absent
	differ   bool
}

type stateMap = map[StateKey]EventID

// graphFile is a parsed file, before it is built for a version.
type graphFile struct {
	name     string
	versions []RoomVersion
	order    []string
	prev     map[string][]string
	tweaks   map[string][]string // fields of the lines "name: …"
	resolve  []string
	want     map[RoomVersion][]string
	differ   bool
}

func readGraph(t testing.TB, path string) *graphFile {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseGraph(string(text))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	f.name = path
	return f
}

var graphName = regexp.MustCompile(`[A-Za-z][A-Za-z0-9]*`)

func parseGraph(text string) (*graphFile, error) {
	f := &graphFile{prev: map[string][]string{}, tweaks: map[string][]string{}, want: map[RoomVersion][]string{}}
	var above []string // the graph lines so far, nearest last
	for i, line := range strings.Split(text, "\n") {
		fail := func(format string, a ...any) error {
			return fmt.Errorf("line %d: %s", i+1, fmt.Sprintf(format, a...))
		}
		trimmed := strings.TrimSpace(line)
		head, rest, isTweak := strings.Cut(trimmed, ":")
		words := strings.Fields(head)
		switch {
		case trimmed == "" || trimmed[0] == '#':
		case strings.Contains(head, "->"):
			if err := f.graphLine(line, above); err != nil {
				return nil, fail("%v", err)
			}
			above = append(above, line)
		case !isTweak:
			return nil, fail("neither graph nor field")
		case head == "versions":
			for _, v := range strings.Fields(rest) {
				f.versions = append(f.versions, RoomVersion(v))
			}
		case head == "resolve":
			f.resolve = strings.Fields(rest)
		case head == "ways":
			f.differ = strings.TrimSpace(rest) == "differ"
		case words[0] == "want":
			versions := f.versions
			if len(words) > 1 {
				versions = nil
				for _, v := range words[1:] {
					versions = append(versions, RoomVersion(v))
				}
			}
			for _, v := range versions {
				f.want[v] = strings.Fields(rest)
			}
		case !slices.Contains(f.order, head):
			return nil, fail("%s is not in the graph", head)
		default:
			before, content, ok := strings.Cut(rest, "content=")
			f.tweaks[head] = strings.Fields(before)
			if ok {
				f.tweaks[head] = append(f.tweaks[head], "content="+content)
			}
		}
	}
	return f, nil
}

// graphLine takes "a -> b -> c", or "| -> b" under the name that it goes on from.
func (f *graphFile) graphLine(line string, above []string) error {
	from := ""
	if bar := strings.IndexByte(line, '|'); bar >= 0 {
		from = nameAbove(above, bar)
		if from == "" {
			return fmt.Errorf("no event above |")
		}
		line = line[bar+1:]
	}
	for i, name := range strings.Split(line, "->") {
		if name = strings.TrimSpace(name); name == "" && i == 0 && from != "" {
			continue
		}
		if graphName.FindString(name) != name || name == "" {
			return fmt.Errorf("%q is no name", name)
		}
		if !slices.Contains(f.order, name) {
			f.order = append(f.order, name)
		}
		if from != "" {
			f.prev[name] = append(f.prev[name], from)
		}
		from = name
	}
	return nil
}

func nameAbove(above []string, column int) string {
	for _, line := range slices.Backward(above) {
		for _, at := range graphName.FindAllStringIndex(line, -1) {
			if at[0] <= column && column <= at[1] {
				return line[at[0]:at[1]]
			}
		}
	}
	return ""
}

var graphUsers = []UserID{alice, bob, carol, dave, erin, frank, gina, henry}

// userNamed finds a user by the localpart, capitalised or not; "" if it is none.
func userNamed(name string) UserID {
	for _, u := range graphUsers {
		if strings.EqualFold(u.Localpart(), name) {
			return u
		}
	}
	return ""
}

// define is what a name means: "create"; a user for their join; ban, kick or
// invite and a user, by Alice; leave or knock and a user, by that user; public, invited, knock, restricted for join
// rules; levels…; say… for a message; anything else is state of the type
// m.room.<name up to a capital or digit> with the name in it, topicA for one.
func define(name string) (ev Event, key string) {
	ev = Event{Sender: alice}
	verb := strings.IndexFunc(name, func(r rune) bool { return r < 'a' || r > 'z' })
	if verb < 0 {
		verb = len(name)
	}
	object := userNamed(strings.TrimRight(name[verb:], "0123456789"))
	member := func(sender, target UserID, membership string) (Event, string) {
		return Event{Sender: sender, Type: TypeMember, Content: []byte(`{"membership":"` + membership + `"}`)}, string(target)
	}
	switch word := name[:verb]; {
	case word == "create":
		ev.Type, ev.Content = TypeCreate, []byte(`{}`)
	case userNamed(word) != "" && object == "":
		return member(userNamed(word), userNamed(word), "join")
	case object != "" && word == "ban":
		return member(alice, object, "ban")
	case object != "" && word == "kick":
		return member(alice, object, "leave")
	case object != "" && word == "invite":
		return member(alice, object, "invite")
	case object != "" && (word == "leave" || word == "knock"):
		return member(object, object, word)
	case slices.Contains([]string{"public", "invited", "knock", "restricted"}, word):
		ev.Type = TypeJoinRules
		ev.Content = []byte(`{"join_rule":"` + strings.Replace(word, "invited", "invite", 1) + `"}`)
	case word == "levels":
		ev.Type, ev.Content = TypePowerLevels, []byte(`{"users":{"@alice:a":100}}`)
	case word == "say":
		ev.Type, ev.Content = TypeMessage, []byte(`{}`)
	default:
		ev.Type, ev.Content = "m.room."+word, []byte(`{"x":"`+name+`"}`)
	}
	return ev, ""
}

var withoutAlice = regexp.MustCompile(`"@alice:a":100,?`)

func newGraph(rules *Rules) *graph {
	return &graph{
		rules: rules, events: map[EventID]*Event{}, prev: map[EventID][]EventID{},
		after: map[EventID]stateMap{}, held: map[EventID]stateMap{}, rejected: map[EventID]bool{}, want: stateMap{},
	}
}

func (g *graph) room() RoomID {
	if g.rules.RoomIDIsCreateHash {
		return "!create"
	}
	return "!room:a"
}

// build makes the events of a file for a room version.
func (f *graphFile) build(t testing.TB, v RoomVersion) *graph {
	t.Helper()
	rules, _ := RulesOf(v)
	g := newGraph(rules)
	g.differ = f.differ
	for i, name := range f.order {
		ev, key := define(name)
		ev.OriginServerTS = int64(i)
		var auth []string
		wantRejected, holds := false, stateMap{}
		for _, tweak := range f.tweaks[name] {
			field, value, _ := strings.Cut(tweak, "=")
			switch field {
			case "sender":
				if ev.Sender = userNamed(value); ev.Type == TypeMember && ev.Membership() == "join" {
					key = string(ev.Sender)
				}
			case "type":
				ev.Type = value
			case "key":
				key = value
			case "ts":
				ev.OriginServerTS, _ = strconv.ParseInt(value, 10, 64)
			case "content":
				ev.Content = canonicalContent(value)
			case "auth":
				auth = strings.Split(value, ",")
			case "rejected":
				wantRejected = value == "" || slices.Contains(strings.Split(value, ","), string(v))
			case "redacts":
				ev.Redacts = graphID(value)
			default:
				at, ok := strings.CutPrefix(field, "after.")
				if !ok {
					t.Fatalf("%s: %s: what is %q?", f.name, name, tweak)
				}
				holds[graphKey(at)] = graphID(value)
			}
		}
		if ev.Type == TypeCreate && rules.CreatorInContent {
			ev.Content = canonicalContent(`{"creator":"` + string(ev.Sender) + `"}`)
		}
		if rules.CreatorPower {
			ev.Content = withoutAlice.ReplaceAll(ev.Content, nil)
		}
		ev.stateKey = key
		for _, p := range f.prev[name] {
			ev.Prev = append(ev.Prev, graphID(p))
		}
		if auth != nil {
			ev.Auth = []EventID{}
			for _, a := range auth {
				ev.Auth = append(ev.Auth, graphID(a))
			}
		}
		err := g.add(t, graphID(name), &ev)
		if (err != nil) != wantRejected {
			t.Fatalf("%s: v%s: %s is refused: %v", f.name, v, name, err)
		}
		g.hold(graphID(name), holds)
	}
	for _, name := range f.resolve {
		g.tips = append(g.tips, graphID(name))
	}
	if g.tips == nil {
		g.tips = g.findTips()
	}
	for _, w := range f.want[v] {
		k, id, _ := strings.Cut(w, "=")
		g.want[graphKey(k)] = graphID(id)
	}
	return g
}

func graphKey(s string) StateKey {
	eventType, key, _ := strings.Cut(s, "/")
	return StateKey{eventType, key}
}

func graphID(name string) EventID {
	if name == "-" {
		return ""
	}
	return EventID("$" + name)
}

// add puts an event after those in ev.Prev: selects its auth events unless it has
// some, authorises it against the state before it, and works out the state after
// it. A refused event is in the graph, but not in the state.
func (g *graph) add(t testing.TB, id EventID, ev *Event) error {
	t.Helper()
	ev.Rules, ev.ID, ev.Room, ev.Depth = g.rules, id, g.room(), 1
	if ev.Type != TypeMessage && ev.Type != TypeRedaction {
		ev.State = &ev.stateKey
	}
	var states []stateMap
	for _, p := range ev.Prev {
		states = append(states, g.after[p])
		ev.Depth = max(ev.Depth, g.events[p].Depth+1)
	}
	before := stateMap{}
	if len(states) > 0 {
		before = g.resolve(t, states)
	}
	if ev.Auth == nil {
		for _, k := range AuthKeys(g.rules, ev.Type, ev.Sender, ev.State, ev.Content) {
			if auth, ok := before[k]; ok {
				ev.Auth = append(ev.Auth, auth)
			}
		}
	}
	g.order = append(g.order, id)
	g.events[id] = ev
	err := Authorize(ev, g.reader(before))
	after := maps.Clone(before)
	switch {
	case err != nil:
		g.rejected[id] = true
	case ev.IsState():
		after[ev.Key()] = id
	}
	g.after[id] = after
	return err
}

func (g *graph) reader(state stateMap) StateReader {
	return func(k StateKey) (*Event, error) { return g.events[state[k]], nil }
}

func (g *graph) hold(id EventID, changes stateMap) {
	if len(changes) == 0 {
		return
	}
	held := maps.Clone(g.after[id])
	for k, e := range changes {
		if e == "" {
			delete(held, k)
		} else {
			held[k] = e
		}
	}
	g.held[id] = held
}

func (g *graph) stateAfter(id EventID) stateMap {
	if held, ok := g.held[id]; ok {
		return held
	}
	return g.after[id]
}

func (g *graph) findTips() (tips []EventID) {
	named := map[EventID]bool{}
	for _, ev := range g.events {
		for _, p := range ev.Prev {
			named[p] = true
		}
	}
	for _, id := range g.order {
		if !named[id] {
			tips = append(tips, id)
		}
	}
	return tips
}

// authChain is the auth chain of some events, by walking all of it.
func (g *graph) authChain(ids ...EventID) map[EventID]bool {
	chain := map[EventID]bool{}
	todo := slices.Clone(ids)
	for len(todo) > 0 {
		ev := g.events[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		for _, a := range ev.Auth {
			if !chain[a] {
				chain[a] = true
				todo = append(todo, a)
			}
		}
	}
	return chain
}

// split takes states apart into what all have and what Resolve is given.
func split(states []stateMap) (unconflicted stateMap, forks []stateMap) {
	unconflicted = stateMap{}
	for k, id := range states[0] {
		if !slices.ContainsFunc(states, func(s stateMap) bool { return s[k] != id }) {
			unconflicted[k] = id
		}
	}
	for _, s := range states {
		fork := maps.Clone(s)
		maps.DeleteFunc(fork, func(k StateKey, _ EventID) bool { _, ok := unconflicted[k]; return ok })
		forks = append(forks, fork)
	}
	return unconflicted, forks
}

// input is what Resolve is given to resolve these states of the graph.
func (g *graph) input(t testing.TB, states []stateMap) (in ResolveInput, unconflicted stateMap) {
	unconflicted, forks := split(states)
	chain := g.authChain(slices.Collect(maps.Values(unconflicted))...)
	return ResolveInput{
		Rules: g.rules,
		Forks: forks,
		Unconflicted: func(k StateKey) (EventID, bool, error) {
			for _, fork := range forks {
				if _, ok := fork[k]; ok {
					t.Errorf("Unconflicted is asked for %v, which is in a fork", k)
				}
			}
			id, ok := unconflicted[k]
			return id, ok, nil
		},
		Event: func(id EventID) (*Event, error) {
			if ev := g.events[id]; ev != nil {
				return ev, nil
			}
			return nil, fmt.Errorf("no event %s", id)
		},
		Rejected:            func(id EventID) bool { return g.rejected[id] },
		InUnconflictedChain: func(id EventID) (bool, error) { return chain[id], nil },
	}, unconflicted
}

// authOf is ResolveInput.AuthOf for the graph. Events are in it after their auth
// events, so their number will do as generation.
func (g *graph) authOf(id EventID) ([]EventID, int64, error) {
	return g.events[id].Auth, int64(slices.Index(g.order, id) + 1), nil
}

// resolve is Resolve for whole states.
func (g *graph) resolve(t testing.TB, states []stateMap) stateMap {
	t.Helper()
	in, state := g.input(t, states)
	return overlay(t, in, state)
}

func overlay(t testing.TB, in ResolveInput, unconflicted stateMap) stateMap {
	t.Helper()
	changes, err := Resolve(in)
	if err != nil {
		t.Fatal(err)
	}
	state := maps.Clone(unconflicted)
	for k, id := range changes {
		if _, ok := unconflicted[k]; ok {
			t.Errorf("the result overwrites %v of the unconflicted state", k)
		}
		state[k] = id
	}
	return state
}
