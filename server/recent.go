package server

import "maps"

// recent is a bounded map that keeps what was asked for lately. It has two
// generations: when the young one is full it becomes the old one, and what is
// asked for moves up, so what nobody asks for falls out. It is not safe for
// concurrent use.
type recent[K comparable, V any] struct {
	most       int // entries of both generations
	young, old map[K]V
}

func newRecent[K comparable, V any](most int) *recent[K, V] {
	return &recent[K, V]{most: most, young: make(map[K]V)}
}

func (r *recent[K, V]) get(k K) (V, bool) {
	v, ok := r.young[k]
	if !ok {
		if v, ok = r.old[k]; ok {
			r.put(k, v)
		}
	}
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	if len(r.young) >= r.most/2 {
		r.old, r.young = r.young, make(map[K]V)
	}
	r.young[k] = v
}

// deleteFunc removes the entries for which del is true.
func (r *recent[K, V]) deleteFunc(del func(K, V) bool) {
	maps.DeleteFunc(r.young, del)
	maps.DeleteFunc(r.old, del)
}
