-- What a room's current state was as the log went on, for whoever has read the
-- log up to some position.

-- The root of the current state of each room from a position on, until the
-- next row of the room. Only positions at which it changed have a row.
-- owner: room service
-- retention: with rooms
-- clustered: read by room and position
CREATE TABLE room_roots (
    room_nid bigint NOT NULL, -- room
    pos      bigint NOT NULL, -- log position from which it holds
    root     bytea,           -- root of the current state, 32 bytes; null: empty
    PRIMARY KEY (room_nid, pos)
);
