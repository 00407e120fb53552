-- Rooms, their events and their state. Local ids: room_nid, event nid and
-- state_key_nid are numbers of this database only.

-- Every room that this server knows: joined, left, or only invited to.
-- owner: room service
-- retention: forever, until PurgeRoom is asked for
CREATE TABLE rooms (
    nid          bigint  NOT NULL PRIMARY KEY, -- local id
    room_id      text    NOT NULL UNIQUE,      -- room id
    room_version text    NOT NULL,             -- room version, for example 12
    version      bigint  NOT NULL,             -- compared and swapped by every commit into the room; from 1
    root         bytea,                        -- root of the current state, 32 bytes; null: empty
    extremities  text    NOT NULL,             -- nids of the forward extremities, ascending
    create_nid   bigint,                       -- nid of the create event; null: not known (only invited)
    joined       bigint  NOT NULL,             -- members joined in the current state
    invited      bigint  NOT NULL,             -- members invited in the current state
    flags        bigint  NOT NULL              -- RoomFlags
);

-- State keys (type, state_key) that some event uses.
-- owner: room service
-- retention: forever, one per user and kind of state; other rows hold the nid
CREATE TABLE state_keys (
    nid       bigint NOT NULL PRIMARY KEY, -- local id
    type      text   NOT NULL,             -- event type
    state_key text   NOT NULL              -- state key, often empty
);

CREATE UNIQUE INDEX state_keys_key ON state_keys (type, state_key);

-- Events, as received. The id is unique within its room only, as senders
-- choose it in room versions 1 and 2.
-- owner: room service
-- retention: with rooms
CREATE TABLE events (
    nid           bigint   NOT NULL PRIMARY KEY, -- local id
    room_nid      bigint   NOT NULL,             -- room
    event_id      text     NOT NULL,             -- event id
    sender        text     NOT NULL,             -- user id
    type          text     NOT NULL,             -- event type
    state_key_nid bigint,                        -- nid of (type, state_key); null: no state event
    kind          smallint NOT NULL,             -- StateKind: what is known of the state at the event
    timeline      bigint,                        -- depth under which it stands in the room's timeline; null: not in it (outlier, waiting, rejected, soft-failed)
    pos           bigint,                        -- position in the log; null: none
    origin_ts     bigint   NOT NULL,             -- origin_server_ts, ms; chosen by the sender
    soft_failed   boolean  NOT NULL,             -- held back from clients and extremities
    rejected      text,                          -- why the checks refused it; null: accepted
    redacted_by   bigint,                        -- nid of the event that redacts it; null: not redacted
    before_root   bytea,                         -- root of the state before it, 32 bytes; null: empty, or not known by kind
    after_root    bytea,                         -- root of the state after it; null: the same as before
    json          bytea    NOT NULL              -- canonical PDU without unsigned
);

CREATE UNIQUE INDEX events_id ON events (event_id, room_nid);
CREATE INDEX events_timeline ON events (room_nid, timeline, nid);
-- Waiting events and those with partial state, kinds 3 and 4.
CREATE INDEX events_unsettled ON events (room_nid, kind, nid) WHERE kind > 2;

-- Who names whom among prev_events, for events that are no outliers. The
-- target may be unknown, therefore it is an id.
-- owner: room service
-- retention: with rooms
-- clustered: found by room and target
CREATE TABLE event_edges (
    room_nid  bigint NOT NULL, -- room
    prev_id   text   NOT NULL, -- event id that is named
    event_nid bigint NOT NULL, -- event that names it
    PRIMARY KEY (room_nid, prev_id, event_nid)
);

-- The graph of auth events of a room: one row per state event that does not
-- wait, small enough to load for a whole room.
-- owner: room service
-- retention: with rooms
-- clustered: read by room
CREATE TABLE event_auth (
    room_nid      bigint NOT NULL, -- room
    event_nid     bigint NOT NULL, -- state event
    state_key_nid bigint NOT NULL, -- its state key
    auth_nids     text   NOT NULL, -- nids of its auth events
    PRIMARY KEY (room_nid, event_nid)
);

-- Nodes of the state tries, see spec/state-root.md. A node belongs to a room.
-- owner: room service
-- retention: with rooms
CREATE TABLE state_nodes (
    room_nid bigint NOT NULL, -- room
    hash     bytea  NOT NULL, -- hash of the content, 32 bytes
    stored   bytea  NOT NULL, -- stored form with local ids
    PRIMARY KEY (room_nid, hash)
);

-- Places of a timeline where older events are missing: just before the event.
-- owner: room service
-- retention: with rooms
-- clustered: read by room and depth
CREATE TABLE timeline_gaps (
    room_nid  bigint NOT NULL, -- room
    timeline  bigint NOT NULL, -- depth of the event, as events.timeline
    event_nid bigint NOT NULL, -- event some of whose prev events are missing
    retry_ts  bigint NOT NULL, -- ms; no attempt to fill the gap before; 0: at any time
    PRIMARY KEY (room_nid, timeline, event_nid)
);

-- Memberships as the current state says, for all users of all rooms, and
-- invites to and leaves from rooms whose state we do not have.
-- owner: room service
-- retention: with rooms
-- clustered: read by user; by room through an index
CREATE TABLE memberships (
    room_nid   bigint  NOT NULL, -- room
    user_id    text    NOT NULL, -- user
    membership text    NOT NULL, -- join, invite, leave, ban or knock
    event_nid  bigint  NOT NULL, -- the membership event
    pos        bigint,           -- position of the log entry that brought it; null: none
    forgotten  boolean NOT NULL, -- the user has forgotten the room
    outside    boolean NOT NULL, -- not from the room's state but from an invite, knock or leave received from elsewhere
    stripped   bytea,            -- JSON array of stripped state that came with an invite or knock; null: none
    PRIMARY KEY (user_id, room_nid)
);

CREATE INDEX memberships_room ON memberships (room_nid, membership, user_id);

-- When servers had joined users in a room. Positions are those of the log, so
-- that whoever reads it knows who was there.
-- owner: room service
-- retention: superseded by PruneRoomServers
-- clustered: read by room
CREATE TABLE room_servers (
    room_nid  bigint NOT NULL, -- room
    server    text   NOT NULL, -- server name
    from_pos  bigint NOT NULL, -- first position at which it is in the room
    until_pos bigint,          -- last position that it is to hear of: of the event that removed its last user; null: still in the room
    PRIMARY KEY (room_nid, server, from_pos)
);

CREATE INDEX room_servers_server ON room_servers (server, room_nid);

-- Transaction ids of clients: what the same request answered before.
-- owner: client requests
-- retention: 48h by PruneTxns
-- clustered: found by key; days go as a whole
CREATE TABLE txns (
    day       bigint NOT NULL, -- days since 1970 UTC at which it was stored
    user_id   text   NOT NULL, -- user
    device_id text   NOT NULL, -- device; empty: an access token without a device
    scope     text   NOT NULL, -- what the id belongs to: send, redact or another endpoint, and the room
    txn_id    text   NOT NULL, -- transaction id that the client chose
    result    text   NOT NULL, -- what was answered, mostly an event id
    PRIMARY KEY (day, user_id, device_id, scope, txn_id)
);
