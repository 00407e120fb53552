-- How schema files are written. The words below are read by a program; the
-- rest of a comment is for people.
--
-- A file is one step of the schema, NNNN-name.sql, applied once, in the order
-- of the numbers, in one transaction, and never changed after a release. It
-- is PostgreSQL; for SQLite the types bigint, smallint, boolean, bytea and
-- text are exchanged and tables become STRICT. Times are bigint, milliseconds
-- since 1970 UTC, column names end in _ts. Flags are boolean. Lists of local
-- ids are text, a JSON array of numbers.
--
-- Directly above CREATE TABLE stand its marks, one per line, no blank line
-- between:
--
--   "-- owner: WHO"        the service that writes the table and keeps it small
--   "-- retention: RULE"   when rows go away, one of
--        forever, WHY            bounded by its nature; WHY says by what
--        with TABLE              rows go with the row of TABLE that they hang on
--                                (with rooms: the table has a column room_nid and
--                                is emptied when the room is purged)
--        superseded by METHOD    rows replaced by later ones are deleted by that
--                                method of *Tx or *DB
--        DURATION by METHOD      rows older than that (24h, 30d) are deleted by
--                                that method of *Tx or *DB
--   "-- clustered: WHY"    optional: SQLite keeps the rows in the order of the
--                          primary key and has no other (WITHOUT ROWID); for
--                          small rows that are read by ranges of the key
--   "-- only: sqlite"      optional, on any statement: for that engine only
--
-- A test refuses a table without owner, a rule in one of these forms, a method
-- that exists, and a comment on every column.

-- Facts about this database as a whole.
-- owner: storage
-- retention: forever, a handful of keys
CREATE TABLE meta (
    key   text NOT NULL PRIMARY KEY, -- name of the fact
    value text NOT NULL              -- its value, form by key
);

-- Next free local ids. Blocks are leased from here and given out in memory, so
-- an id is never given twice, also across a crash.
-- owner: storage
-- retention: forever, one row per sequence
CREATE TABLE sequences (
    name    text   NOT NULL PRIMARY KEY, -- event, room, state_key
    next_id bigint NOT NULL              -- first id not leased yet
);

INSERT INTO sequences (name, next_id) VALUES ('event', 1), ('room', 1), ('state_key', 1);

-- The last position of the log. Its row is locked last in every transaction
-- that appends, so positions are given in the order of the commits.
-- owner: storage
-- retention: forever, one row
CREATE TABLE log_head (
    one          smallint NOT NULL PRIMARY KEY, -- always 1
    pos          bigint   NOT NULL,             -- last position given; 0: none yet
    compacted_to bigint   NOT NULL              -- up to here superseded entries may be missing; above, positions have no holes
);

INSERT INTO log_head (one, pos, compacted_to) VALUES (1, 0, 0);

-- The log: every durable change that somebody may have to hear of, in commit
-- order. An entry is found by the scopes that it names.
-- owner: storage
-- retention: superseded by CompactLog
CREATE TABLE log (
    pos       bigint   NOT NULL PRIMARY KEY, -- position, from 1
    kind      smallint NOT NULL,             -- LogKind
    room_nid  bigint,                        -- room that it concerns; null: none
    user_id   text,                          -- user that it concerns; null: none
    device_id text,                          -- device of user_id that it concerns; null: none or all
    server    text,                          -- remote server that it concerns; null: none
    event_nid bigint,                        -- event that it announces; null: none
    body      text                           -- what else the kind needs, for example an account data type; null: nothing
);

CREATE INDEX log_room ON log (room_nid, pos) WHERE room_nid IS NOT NULL;
CREATE INDEX log_user ON log (user_id, pos) WHERE user_id IS NOT NULL;
CREATE INDEX log_server ON log (server, pos) WHERE server IS NOT NULL;
