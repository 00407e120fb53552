-- Aliases of this server. The room need not be one that we know.
-- owner: aliases
-- retention: forever, made by users one by one; DeleteAlias removes them
CREATE TABLE aliases (
    alias      text   NOT NULL PRIMARY KEY, -- full alias
    room_id    text   NOT NULL,             -- room that it names
    creator    text   NOT NULL,             -- user who made it
    created_ts bigint NOT NULL              -- ms
);

CREATE INDEX aliases_room ON aliases (room_id);
