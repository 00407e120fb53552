// Package clientapi serves the Matrix client-server API: it parses requests into
// typed values, makes one call to package server, and shapes the reply.
package clientapi
