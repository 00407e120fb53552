package storage

import (
	"fmt"
	"slices"

	"atoll/spec"
)

var (
	selectNode  = query(`SELECT stored FROM state_nodes WHERE room_nid = $1 AND hash = $2`)
	selectNodes = query(`SELECT hash, stored FROM state_nodes WHERE room_nid = $1 ORDER BY hash`)
)

// StateNode returns a node of a room's state trie; ErrNotFound if it is not
// stored.
func (tx *Tx) StateNode(roomNID int64, hash spec.Hash) (*spec.Node, error) {
	var stored []byte
	if err := tx.one(selectNode, []any{roomNID, hash}, &stored); err != nil {
		return nil, err
	}
	return spec.DecodeNode(hash, stored)
}

// StateNodes returns several nodes of a room's state trie; those that are not
// stored are left out.
func (tx *Tx) StateNodes(roomNID int64, hashes []spec.Hash) (map[spec.Hash]*spec.Node, error) {
	out := make(map[spec.Hash]*spec.Node, len(hashes))
	for _, h := range hashes {
		// One by one: a look-up by key costs no more than an element of a list.
		n, err := tx.StateNode(roomNID, h)
		switch {
		case err == nil:
			out[h] = n
		case err != ErrNotFound:
			return nil, err
		}
	}
	return out, nil
}

// EachStateNode calls fn with every node of a room in stored form. fn must not
// use the transaction.
func (tx *Tx) EachStateNode(roomNID int64, fn func(hash spec.Hash, stored []byte) error) error {
	return tx.each(selectNodes, []any{roomNID}, func(r *rows) error {
		var h spec.Hash
		var stored []byte
		if err := r.scan(&h, &stored); err != nil {
			return err
		}
		return fn(h, stored)
	})
}

// NodeReader reads the state tries of one room within a transaction; it
// implements spec.NodeReader. A node that is missing is an error.
type NodeReader struct {
	tx   *Tx
	room int64
}

// NodeReader returns a reader of a room's state tries.
func (tx *Tx) NodeReader(roomNID int64) NodeReader { return NodeReader{tx, roomNID} }

// Node implements spec.NodeReader.
func (r NodeReader) Node(h spec.Hash) (*spec.Node, error) {
	n, err := r.tx.StateNode(r.room, h)
	if err != nil {
		return nil, fmt.Errorf("state node %s of room %d: %w", h, r.room, err)
	}
	return n, nil
}

var deleteNodes = newBulk(bulk{
	name: "delete state nodes", rank: rankNodes + 1,
	head:  `DELETE FROM state_nodes WHERE (room_nid, hash) IN (VALUES `,
	types: types("bigint bytea"),
	tail:  `)`,
})

// DeleteStateNodes deletes nodes that no root reaches any more. It must run in
// the same transaction as a swap of the room's version (Apply), so that no
// unit that was built on these nodes can still be committed.
func (tx *Tx) DeleteStateNodes(roomNID int64, hashes []spec.Hash) error {
	for part := range slices.Chunk(hashes, UnitMaxRows) {
		args := make([]any, 0, 2*len(part))
		for i := range part {
			args = append(args, roomNID, part[i][:])
		}
		if err := tx.c.bulk(deleteNodes, args); err != nil {
			return err
		}
	}
	return nil
}
