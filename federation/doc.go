// Package federation speaks the Matrix server-server API: inbound handlers, the
// outbound client, server discovery, the key ring and the senders.
package federation
