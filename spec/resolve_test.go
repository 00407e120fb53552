package spec

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestResolveGraphs(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.graph")
	if err != nil || len(paths) == 0 {
		t.Fatal("no graphs", err)
	}
	for _, path := range paths {
		f := readGraph(t, path)
		for _, v := range f.versions {
			t.Run(fmt.Sprintf("v%s %s", v, strings.TrimSuffix(filepath.Base(path), ".graph")), func(t *testing.T) {
				checkGraph(t, f.build(t, v))
			})
		}
	}
}

// checkGraph resolves the tips in several ways and compares with what is wanted.
func checkGraph(t *testing.T, g *graph) {
	var states []stateMap
	for _, tip := range g.tips {
		states = append(states, g.stateAfter(tip))
	}
	unconflicted, _ := split(states)
	check := func(way string, got stateMap) {
		t.Helper()
		contested := maps.Clone(g.want)
		maps.DeleteFunc(contested, func(_ StateKey, id EventID) bool { return id == "" })
		for k, id := range got {
			if unconflicted[k] == "" && contested[k] != id {
				t.Errorf("%s: at %v %s, want %s", way, k, id, contested[k])
			}
			delete(contested, k)
		}
		for k, id := range contested {
			t.Errorf("%s: at %v nothing, want %s", way, k, id)
		}
	}
	for k := range g.want {
		if unconflicted[k] != "" {
			t.Errorf("the forks agree on %v", k)
		}
	}
	check("by definition", g.reference(t, states))
	random := rand.New(rand.NewPCG(1, 2))
	for range 4 {
		random.Shuffle(len(states), func(i, j int) { states[i], states[j] = states[j], states[i] })
		check("all at once", g.resolve(t, states))
		if g.differ {
			continue
		}
		one := states[0]
		for _, s := range states[1:] {
			one = g.resolve(t, []stateMap{one, s})
		}
		check("one by one", one)
		for size := 2; size < len(states); size++ {
			var batches []stateMap
			for batch := range slices.Chunk(states, size) {
				batches = append(batches, g.resolve(t, batch))
			}
			check(fmt.Sprintf("in batches of %d", size), g.resolve(t, batches))
		}
	}
}

func TestParseGraph(t *testing.T) {
	f, err := parseGraph("versions: 10\na -> bc -> d\n      | -> e -> f\n           | -> g\nd -> g\ng: ts=5 content={\"a\": 1}\nwant: x=a\n")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"bc": {"a"}, "d": {"bc"}, "e": {"bc"}, "f": {"e"}, "g": {"e", "d"}}
	if !maps.EqualFunc(f.prev, want, slices.Equal) {
		t.Errorf("prev %v, want %v", f.prev, want)
	}
	if got := f.tweaks["g"]; !slices.Equal(got, []string{"ts=5", `content={"a": 1}`}) {
		t.Errorf("fields %q", got)
	}
	for _, bad := range []string{"a -> ", "  | -> a", "a b", "x: ts=1"} {
		if _, err := parseGraph(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// randomRoom makes a graph of n events by users who do as they please. What is
// refused is mostly thrown away and sometimes kept.
func randomRoom(t testing.TB, random *rand.Rand, v RoomVersion, n int) *graph {
	rules, _ := RulesOf(v)
	g := newGraph(rules)
	must := func(name string, prev ...EventID) {
		ev, key := define(name)
		ev.Prev, ev.stateKey = prev, key
		if name == "create" && rules.CreatorInContent {
			ev.Content = []byte(`{"creator":"@alice:a"}`)
		}
		if err := g.add(t, graphID(name), &ev); err != nil {
			t.Fatal(err)
		}
	}
	must("create")
	must("alice", "$create")
	must("public", "$alice")
	for tries := 0; len(g.order) < n && tries < 20*n; tries++ {
		ev := randomEvent(random, rules)
		for range 1 + random.IntN(3) {
			// Mostly the newest, sometimes anything, not the create event alone.
			at := len(g.order) - 1 - random.IntN(min(4, len(g.order)-1))
			if random.IntN(6) == 0 {
				at = 1 + random.IntN(len(g.order)-1)
			}
			if p := g.order[at]; !slices.Contains(ev.Prev, p) {
				ev.Prev = append(ev.Prev, p)
			}
		}
		id := EventID(fmt.Sprintf("$%04x", random.IntN(1<<16)))
		if g.events[id] != nil {
			continue
		}
		if g.add(t, id, ev) != nil && random.IntN(10) > 0 {
			delete(g.events, id)
			delete(g.after, id)
			delete(g.rejected, id)
			g.order = g.order[:len(g.order)-1]
		}
	}
	return g
}

func randomEvent(random *rand.Rand, rules *Rules) *Event {
	users := graphUsers[:4]
	user := func() UserID { return users[random.IntN(len(users))] }
	ev := &Event{Sender: user(), OriginServerTS: int64(random.IntN(20)), Content: []byte(`{}`)}
	if random.IntN(2) == 0 {
		ev.Sender = alice
	}
	switch random.IntN(10) {
	case 0, 1:
		ev.Type = "m.room.topic"
	case 2:
		ev.Type, ev.stateKey = "m.room.x", fmt.Sprint(random.IntN(3))
	case 3, 4:
		ev.Type = TypePowerLevels
		levels := []int{0, 50, 50, 100}
		var list []string
		if !rules.CreatorPower {
			list = append(list, `"@alice:a":100`)
		}
		for _, u := range users[1:] {
			list = append(list, fmt.Sprintf("%q:%d", u, levels[random.IntN(len(levels))]))
		}
		ev.Content = canonicalContent(fmt.Sprintf(`{"users":{%s},"kick":%d}`, strings.Join(list, ","), random.IntN(60)))
	case 5:
		ev.Type = TypeJoinRules
		ev.Content = []byte(`{"join_rule":"` + []string{"public", "invite", "knock"}[random.IntN(3)] + `"}`)
	default:
		ev.Type, ev.stateKey = TypeMember, string(ev.Sender)
		membership := []string{"join", "join", "join", "leave", "knock"}[random.IntN(5)]
		if random.IntN(3) == 0 {
			ev.stateKey = string(user())
			membership = []string{"leave", "ban", "invite", "invite"}[random.IntN(4)]
		}
		ev.Content = []byte(`{"membership":"` + membership + `"}`)
	}
	return ev
}

// randomStates picks the states after some events, of which a few are not what
// they should be, as if a peer had told them wrongly.
func randomStates(random *rand.Rand, g *graph) []stateMap {
	var states []stateMap
	for range 2 + random.IntN(3) {
		state := maps.Clone(g.after[g.order[len(g.order)/2+random.IntN(len(g.order)-len(g.order)/2)]])
		for random.IntN(2) == 0 {
			old := g.events[g.order[random.IntN(len(g.order))]]
			if !g.rejected[old.ID] {
				state[old.Key()] = old.ID
			}
			if random.IntN(4) == 0 {
				delete(state, old.Key())
			}
		}
		states = append(states, state)
	}
	return states
}

func TestResolveAgreesWithDefinition(t *testing.T) {
	seeds := 60
	if testing.Short() {
		seeds = 20
	}
	first := rand.Uint64()
	t.Logf("seeds from %d", first)
	for _, v := range []RoomVersion{"1", "2", "10", "12"} {
		t.Run("v"+string(v)+" 03-043 18-035 random rooms", func(t *testing.T) {
			conflicts := 0
			for i := range seeds {
				conflicts += checkRandomRoom(t, v, first+uint64(i))
			}
			if conflicts < seeds {
				t.Errorf("only %d resolutions had something to resolve", conflicts)
			}
		})
	}
}

// checkRandomRoom resolves some states of a random room and returns how many of
// them were in conflict.
func checkRandomRoom(t *testing.T, v RoomVersion, seed uint64) (conflicts int) {
	random := rand.New(rand.NewPCG(seed, 0))
	g := randomRoom(t, random, v, 12+random.IntN(30))
	for range 4 {
		states := randomStates(random, g)
		want := g.reference(t, states)
		in, unconflicted := g.input(t, states)
		if slices.ContainsFunc(in.Forks, func(f stateMap) bool { return len(f) > 0 }) {
			conflicts++
		}
		if random.IntN(2) == 0 {
			in.AuthOf = g.authOf
		}
		if got := overlay(t, in, unconflicted); !maps.Equal(got, want) {
			t.Fatalf("seed %d: got %v, want %v", seed, got, want)
		}
		slices.Reverse(in.Forks)
		if got := overlay(t, in, unconflicted); !maps.Equal(got, want) {
			t.Fatalf("seed %d: the order of forks matters", seed)
		}
	}
	return conflicts
}

func TestResolveAgreedKeysInForks(t *testing.T) {
	// A caller that is not exact about which keys differ gets the same answer.
	f := readGraph(t, "testdata/three-branches.graph")
	for _, v := range f.versions {
		g := f.build(t, v)
		var states []stateMap
		for _, tip := range g.tips {
			states = append(states, g.stateAfter(tip))
		}
		want := g.resolve(t, states)
		in, _ := g.input(t, states)
		in.Forks = states
		in.Unconflicted = func(StateKey) (EventID, bool, error) { return "", false, nil }
		in.InUnconflictedChain = func(EventID) (bool, error) { return false, nil }
		if got := overlay(t, in, stateMap{}); !maps.Equal(got, want) {
			t.Errorf("v%s: got %v, want %v", v, got, want)
		}
	}
}

func TestResolveWithoutConflict(t *testing.T) {
	rules, _ := RulesOf("12")
	for _, forks := range [][]map[StateKey]EventID{nil, {{}}, {{}, {}}, {{keyCreate: "$x"}}, {{keyCreate: "$x"}, {keyCreate: "$x"}}} {
		got, err := Resolve(ResolveInput{Rules: rules, Forks: forks})
		if err != nil || len(forks) > 0 && !maps.Equal(got, forks[0]) {
			t.Errorf("forks %v: %v, %v", forks, got, err)
		}
	}
}

func TestResolveHandsErrorsOn(t *testing.T) {
	f := readGraph(t, "testdata/03-048-msc4297-problem-b.graph")
	broken := errors.New("disk on fire")
	for _, v := range f.versions {
		g := f.build(t, v)
		states := []stateMap{g.stateAfter(g.tips[0]), g.stateAfter(g.tips[1])}
		for id := range g.events {
			in, _ := g.input(t, states)
			event, asked := in.Event, false
			in.Event = func(e EventID) (*Event, error) {
				if e == id {
					asked = true
					return nil, broken
				}
				return event(e)
			}
			if _, err := Resolve(in); asked != errors.Is(err, broken) {
				t.Errorf("v%s: without %s: %v", v, id, err)
			}
		}
	}
}

// chainGraph is a room in which Alice sets the power levels n times.
func chainGraph(t testing.TB, v RoomVersion, n int) *graph {
	rules, _ := RulesOf(v)
	g := newGraph(rules)
	last := EventID("")
	add := func(id EventID, sender UserID, eventType, key, content string, auth ...EventID) {
		ev := &Event{Rules: rules, ID: id, Room: g.room(), Sender: sender, Type: eventType, Content: []byte(content), Auth: auth, stateKey: key}
		ev.State = &ev.stateKey
		ev.OriginServerTS = int64(len(g.order))
		g.events[id], last = ev, id
		g.order = append(g.order, id)
	}
	var root []EventID
	levels := `{}`
	add("$create", alice, TypeCreate, "", `{"creator":"@alice:a"}`)
	if !rules.RoomIDIsCreateHash {
		root, levels = []EventID{"$create"}, `{"users":{"@alice:a":100}}`
	}
	add("$alice", alice, TypeMember, string(alice), `{"membership":"join"}`, root...)
	root = append(root, "$alice")
	for i := range n {
		auth := slices.Clone(root)
		if i > 0 {
			auth = append(auth, last)
		}
		add(EventID(fmt.Sprintf("$levels%d", i)), alice, TypePowerLevels, "", levels, auth...)
	}
	add("$topic1", alice, "m.room.topic", "", `{}`, append(slices.Clone(root), last)...)
	add("$topic2", alice, "m.room.topic", "", `{}`, append(slices.Clone(root), EventID(fmt.Sprintf("$levels%d", n-1)))...)
	return g
}

func TestResolveDeepChains(t *testing.T) {
	const n = 20_000
	for _, v := range []RoomVersion{"10", "12"} {
		g := chainGraph(t, v, n)
		state := func(levels int, topic EventID) stateMap {
			return stateMap{keyCreate: "$create", keyMember(alice): "$alice", {Type: "m.room.topic"}: topic,
				keyPowerLevels: EventID(fmt.Sprintf("$levels%d", levels))}
		}
		states := []stateMap{state(n-1, "$topic1"), state(0, "$topic2")}
		if got := g.resolve(t, states); got[keyPowerLevels] != states[0][keyPowerLevels] || got[StateKey{Type: "m.room.topic"}] != "$topic2" {
			t.Errorf("v%s: got %v", v, got)
		}
	}
}

func TestResolveReadsOnlyWhatDiffers(t *testing.T) {
	// Two topics over long history: what is behind the power levels is not read.
	const n = 1000
	for _, v := range []RoomVersion{"10", "12"} {
		g := chainGraph(t, v, n)
		state := func(topic EventID) stateMap {
			return stateMap{keyCreate: "$create", keyMember(alice): "$alice", {Type: "m.room.topic"}: topic,
				keyPowerLevels: EventID(fmt.Sprintf("$levels%d", n-1))}
		}
		in, _ := g.input(t, []stateMap{state("$topic1"), state("$topic2")})
		event, read := in.Event, map[EventID]bool{}
		in.Event = func(id EventID) (*Event, error) { read[id] = true; return event(id) }
		if _, err := Resolve(in); err != nil {
			t.Fatal(err)
		}
		if len(read) > 10 {
			t.Errorf("v%s: %d events are read", v, len(read))
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	for _, v := range []RoomVersion{"1", "10", "12"} {
		b.Run("v"+string(v)+"/2 forks, 20 keys", func(b *testing.B) {
			text := "create -> alice -> levels -> public -> bob -> a0\n"
			bar := strings.Repeat(" ", strings.Index(text, "bob")) + "| -> b0\n"
			var first, second strings.Builder
			for i := range 19 {
				fmt.Fprintf(&first, "a%d -> a%d\na%d: key=%d type=m.x\n", i, i+1, i+1, i+1)
				fmt.Fprintf(&second, "b%d -> b%d\nb%d: key=%d type=m.x sender=bob\n", i, i+1, i+1, i+1)
			}
			f, err := parseGraph(text + bar + first.String() + second.String() +
				"a0: type=m.x key=0\nb0: type=m.x key=0 sender=bob\n" +
				"levels: content={\"users\":{\"@alice:a\":100,\"@bob:b\":50}}")
			if err != nil {
				b.Fatal(err)
			}
			g := f.build(b, v)
			in, _ := g.input(b, []stateMap{g.after["$a19"], g.after["$b19"]})
			if len(in.Forks[0]) != 20 {
				b.Fatalf("%d keys", len(in.Forks[0]))
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Resolve(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
