// Package storage keeps everything durable: one SQL text for SQLite and
// PostgreSQL, group commit of hot writes, and one log whose positions order
// everything that anybody may have to hear of.
package storage
