package clientapi_test

import (
	"atoll/clientapi/clienttest"
)

type obj = clienttest.Object

var roomPath = clienttest.RoomPath

func types(events []clienttest.Event) []string {
	var list []string
	for _, e := range events {
		list = append(list, e.Type())
	}
	return list
}

// bodies lists the texts of the messages among events.
func bodies(events []clienttest.Event) []string {
	var list []string
	for _, e := range events {
		if e.Type() == "m.room.message" {
			list = append(list, e.Body())
		}
	}
	return list
}
