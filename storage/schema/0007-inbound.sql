-- What other servers sent and is not settled yet.

-- PDUs that wait for ancestors, auth events or a signing key. Clients do not see
-- them. They are tried again on a schedule and when they are received again.
-- owner: room service
-- retention: 7d by PruneLedger
CREATE TABLE ledger (
    room_nid    bigint NOT NULL, -- room
    event_id    text   NOT NULL, -- event id
    origin      text   NOT NULL, -- server that sent it last
    json        bytea  NOT NULL, -- the PDU as it goes between servers
    received_ts bigint NOT NULL, -- when it was first received, ms
    PRIMARY KEY (room_nid, event_id)
);

-- Answers to transactions of other servers, for those that come twice.
-- owner: federation
-- retention: 24h by PruneInboundTxns
CREATE TABLE inbound_txns (
    origin      text   NOT NULL, -- server that sent it
    txn_id      text   NOT NULL, -- transaction id, chosen by the sender
    answer      bytea  NOT NULL, -- JSON body that was answered
    received_ts bigint NOT NULL, -- when it was answered, ms
    PRIMARY KEY (origin, txn_id)
);

CREATE INDEX inbound_txns_age ON inbound_txns (received_ts);

-- Rooms in this server's public directory.
-- owner: room service
-- retention: with rooms
CREATE TABLE published_rooms (
    room_nid     bigint NOT NULL PRIMARY KEY, -- room
    published_ts bigint NOT NULL              -- since when, ms
);

-- Redactions that came before the event they name.
-- owner: room service
-- retention: with rooms
-- clustered: found by target
CREATE TABLE early_redactions (
    room_nid  bigint NOT NULL, -- room
    target_id text   NOT NULL, -- event id that is to be redacted
    event_nid bigint NOT NULL, -- redaction
    PRIMARY KEY (room_nid, target_id, event_nid)
);
