-- What logging in, refreshing tokens and ending accounts need to survive a
-- restart.

CREATE INDEX sessions_replaces ON sessions (replaces_hash) WHERE replaces_hash IS NOT NULL;

-- Tokens with which a client logs another one in, once each. Of tokens only the
-- SHA-256 is kept.
-- owner: accounts
-- retention: 1h by PruneLogins
CREATE TABLE login_tokens (
    token_hash bytea  NOT NULL PRIMARY KEY, -- SHA-256 of the token
    user_id    text   NOT NULL,             -- whom it logs in
    expires_ts bigint NOT NULL              -- end, ms
);

CREATE INDEX login_tokens_age ON login_tokens (expires_ts);
CREATE INDEX login_tokens_user ON login_tokens (user_id);

-- How far sessions of user-interactive authentication have come that need more
-- than one stage.
-- owner: accounts
-- retention: 1h by PruneLogins
CREATE TABLE uia_progress (
    session_id text   NOT NULL PRIMARY KEY, -- as the client has it
    completed  text   NOT NULL,             -- stages that are done, a JSON array
    token      text,                        -- the registration token of that stage; null: none
    expires_ts bigint NOT NULL              -- end of the session, ms
);

CREATE INDEX uia_progress_age ON uia_progress (expires_ts);

-- Deactivated users who may still be in rooms.
-- owner: accounts
-- retention: superseded by EndParting
CREATE TABLE partings (
    user_id text NOT NULL PRIMARY KEY -- user
);
