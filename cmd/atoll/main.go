// Command atoll is a Matrix homeserver.
package main

func main() {}
