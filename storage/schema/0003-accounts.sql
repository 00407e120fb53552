-- Local users with what belongs to each: devices, sessions, profile, account
-- data, filters. Columns user_id hold full user ids.

-- Accounts of this server. A name is never given twice, so rows stay.
-- owner: accounts
-- retention: forever, one row per account that was ever made
CREATE TABLE users (
    user_id        text    NOT NULL PRIMARY KEY, -- user id
    password_hash  text,                         -- PHC string; null: no login by password
    guest          boolean NOT NULL,             -- guest account
    admin          boolean NOT NULL,             -- may use the administrative endpoints
    locked         boolean NOT NULL,             -- may only log out
    suspended      boolean NOT NULL,             -- may read and leave, little else
    erased         boolean NOT NULL,             -- messages are hidden from those who join later
    created_ts     bigint  NOT NULL,             -- when the account was made, ms
    deactivated_ts bigint                        -- when it was deactivated, ms; null: it was not
);

-- Devices of local users.
-- owner: accounts
-- retention: with users
-- clustered: read by user
CREATE TABLE devices (
    user_id      text   NOT NULL, -- user
    device_id    text   NOT NULL, -- id, chosen by the client or by us
    display_name text,            -- null: none
    created_ts   bigint NOT NULL, -- ms
    last_seen_ts bigint,          -- last use, ms, up to a minute behind; null: never
    last_ip      text,            -- address of the last use; null: not known
    last_agent   text,            -- user agent of the last use; null: not known
    PRIMARY KEY (user_id, device_id)
);

-- Access tokens, and room for what refreshing them needs. Of tokens only the
-- SHA-256 is kept.
-- owner: accounts
-- retention: with devices
CREATE TABLE sessions (
    token_hash    bytea  NOT NULL PRIMARY KEY, -- SHA-256 of the access token
    user_id       text   NOT NULL,             -- user
    device_id     text   NOT NULL,             -- device of the user
    created_ts    bigint NOT NULL,             -- ms
    expires_ts    bigint,                      -- end of the access token, ms; null: never
    refresh_hash  bytea UNIQUE,                -- SHA-256 of the refresh token; null: none
    replaces_hash bytea                        -- token_hash of the row that this one ends when first used; null: none
);

CREATE INDEX sessions_device ON sessions (user_id, device_id);

-- Tokens that let their bearers register.
-- owner: accounts
-- retention: forever, made by the operator one by one
CREATE TABLE registration_tokens (
    token      text   NOT NULL PRIMARY KEY, -- the token itself
    uses_max   bigint,                      -- accounts that it is good for; null: any number
    uses       bigint NOT NULL,             -- accounts made with it
    created_ts bigint NOT NULL,             -- ms
    expires_ts bigint                       -- end, ms; null: never
);

-- Fields of the profiles of local users, at most 64 KiB for each user.
-- owner: profiles
-- retention: with users
-- clustered: read by user
CREATE TABLE profile_fields (
    user_id text NOT NULL, -- user
    name    text NOT NULL, -- field, for example displayname
    value   text NOT NULL, -- JSON
    PRIMARY KEY (user_id, name)
);

-- Account data of local users, the newest of each type.
-- owner: account data
-- retention: with users
-- clustered: read by user, and by room within
CREATE TABLE account_data (
    user_id text   NOT NULL, -- user
    room_id text   NOT NULL, -- room that it belongs to; empty: none
    type    text   NOT NULL, -- event type
    content text   NOT NULL, -- JSON object
    pos     bigint NOT NULL, -- log position of the last change
    PRIMARY KEY (user_id, room_id, type)
);

CREATE INDEX account_data_pos ON account_data (user_id, pos);

-- Filters that clients have stored, each content once, so many for each user
-- and no more: the oldest make room.
-- owner: filters
-- retention: with users
-- clustered: read by user
CREATE TABLE filters (
    user_id   text   NOT NULL, -- user
    filter_id text   NOT NULL, -- made from the content
    content   text   NOT NULL, -- JSON object
    used_ts   bigint NOT NULL, -- when it was last stored, ms
    PRIMARY KEY (user_id, filter_id)
);
