package storage

import (
	"strings"
	"testing"
)

func TestBindServerName(t *testing.T) {
	db := openTest(t)
	for range 2 {
		if err := db.BindServerName(t.Context(), "a.example"); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.BindServerName(t.Context(), "b.example"); err == nil || !strings.Contains(err.Error(), "a.example") {
		t.Errorf("another name: got %v, want that this is the database of a.example", err)
	}
}
