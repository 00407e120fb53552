-- Federation: keys of other servers, and how far each of them has what it is
-- to be sent.

-- Keys by which other servers sign or signed. Old ones stay, as they verify
-- old events.
-- owner: federation key ring
-- retention: superseded by PruneServerKeys
CREATE TABLE server_keys (
    server         text   NOT NULL, -- server name
    key_id         text   NOT NULL, -- key id, with algorithm
    public_key     bytea  NOT NULL, -- 32 bytes
    valid_until_ts bigint NOT NULL, -- ms; good without asking again up to here
    expired_ts     bigint,          -- ms; when the server stopped using it; null: in use
    fetched_ts     bigint NOT NULL, -- ms; when the answer came
    answer         bytea  NOT NULL, -- signed object that the key was published in
    PRIMARY KEY (server, key_id)
);

-- How far the log has been handed to the senders: what lies at or before the
-- position has been delivered to every server without a row in destinations.
-- owner: federation sender
-- retention: forever, one row
CREATE TABLE sender_position (
    one smallint NOT NULL PRIMARY KEY, -- always 1
    pos bigint   NOT NULL              -- position in the log
);

-- Servers that could not be sent everything. One that has caught up keeps its
-- row, with cursor null, until it is pruned.
-- owner: federation sender
-- retention: superseded by PruneDestinations
-- clustered: small rows, read as a whole
CREATE TABLE destinations (
    server   text   NOT NULL PRIMARY KEY, -- server name
    cursor   bigint,                      -- position in the log up to which it has everything; null: it has caught up
    failures bigint NOT NULL,             -- failed attempts in a row; 0: the last one succeeded
    retry_ts bigint NOT NULL              -- ms; no attempt before; 0: at any time
);
