//go:build !unix

package main

// privateFiles has nothing to do where files have no such modes.
func privateFiles() {}
