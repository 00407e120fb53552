package main

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestCitations(t *testing.T) {
	for line, want := range map[string]string{
		`t.Run("98-019 gappy sync", f)`:                  "98-019",
		`func Test_98_019_Gappy(t *testing.T) {`:         "98-019",
		`{"98-002/003 and 98-007, 008: both", 1},`:       "98-002 98-003 98-007 98-008",
		`// 98-021…023`:                                  "98-021 98-022 98-023",
		`date := "2026-11-23"`:                           "",
		`"@user:98-0191"`:                                "",
		`{name: "98-004 and 97-005 one and the other"},`: "97-005 98-004",
	} {
		found := map[string]bool{}
		citations(line, found)
		got := strings.Join(slices.Sorted(maps.Keys(found)), " ")
		if got != want {
			t.Errorf("%s names %q, want %q", line, got, want)
		}
	}
}

func TestRuns(t *testing.T) {
	if got := runs([]string{"98-001", "98-003", "98-004", "98-007", "98-008", "98-009"}); got != "98-001, 003, 004, 007 to 009" {
		t.Error(got)
	}
}

func TestPageIsFresh(t *testing.T) {
	const lists = "../../../shared/behaviours"
	if _, err := os.Stat(lists); err != nil {
		t.Skip("SKIPPED: the lists of behaviours are not here, so docs/BEHAVIOURS.md was not compared with the tests")
	}
	made, err := generate("../..", lists)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile("../../docs/BEHAVIOURS.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(made, kept) {
		t.Error("docs/BEHAVIOURS.md is out of date: go run ./cmd/behaviours ../shared/behaviours > docs/BEHAVIOURS.md")
	}
}
