package spec

import (
	"fmt"
	"reflect"
	"testing"
)

func TestRulesOf(t *testing.T) {
	for _, v := range []RoomVersion{"", "0", "01", "1.0", "13", " 1", "org.matrix.msc1"} {
		if _, ok := RulesOf(v); ok {
			t.Errorf("18-003 %q is a known version", v)
		}
	}
	if got := fmt.Sprint(SupportedVersions()); got != "[1 2 3 4 5 6 7 8 9 10 11 12]" {
		t.Errorf("supported %s", got)
	}
	if rules := mustRules(t, DefaultVersion); rules.Version != "12" || !rules.Supported {
		t.Error("18-004 version 12 is the default")
	}
}

// Each fact begins to hold, or ends, with the version that the specification
// says; the list is independent of how version.go derives one from the other.
func TestRulesChangeWhere(t *testing.T) {
	cases := map[string]struct{ from, until int }{
		"Supported":                   {1, 12},
		"StrictJSON":                  {6, 12},
		"CreatorInContent":            {1, 10},
		"RedactsInContent":            {11, 12},
		"RoomIDIsCreateHash":          {12, 12},
		"RedactionKeepsAliases":       {1, 5},
		"RedactionKeepsAllow":         {8, 12},
		"RedactionKeepsAuthorisedVia": {9, 12},
		"RedactionV11":                {11, 12},
		"EventIDSigned":               {1, 2},
		"KeyValidity":                 {5, 12},
		"AliasesByDomain":             {1, 5},
		"RedactionAuth":               {1, 2},
		"NotificationLevels":          {6, 12},
		"Knock":                       {7, 12},
		"Restricted":                  {8, 12},
		"KnockRestricted":             {10, 12},
		"IntegerLevels":               {10, 12},
		"FloatLevels":                 {1, 5},
		"CreatorPower":                {12, 12},
	}
	for n := 1; n <= 12; n++ {
		rules := mustRules(t, RoomVersion(fmt.Sprint(n)))
		if string(rules.Version) != fmt.Sprint(n) {
			t.Errorf("version %d calls itself %s", n, rules.Version)
		}
		value := reflect.ValueOf(*rules)
		for i := range value.NumField() {
			if value.Field(i).Kind() != reflect.Bool {
				continue
			}
			name := value.Type().Field(i).Name
			c, ok := cases[name]
			if !ok {
				t.Errorf("fact %s is not in this test", name)
			} else if want := c.from <= n && n <= c.until; value.Field(i).Bool() != want {
				t.Errorf("version %d: %s is %v", n, name, !want)
			}
		}
		ids, resolution := EventIDHashURL, StateResolutionV2
		switch {
		case n <= 2:
			ids = EventIDChosen
		case n == 3:
			ids = EventIDHash
		}
		if n == 1 {
			resolution = StateResolutionV1
		} else if n == 12 {
			resolution = StateResolutionV21
		}
		if rules.EventIDs != ids || rules.StateResolution != resolution {
			t.Errorf("version %d: event IDs %d, state resolution %d", n, rules.EventIDs, rules.StateResolution)
		}
	}
}
