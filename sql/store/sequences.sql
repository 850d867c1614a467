-- The store's sequences.
--
-- first_position and last_position: the bounds of this node's positions.

-- CACHE 1 matters: positions cached by a session would be allocated before its locks are taken.
CREATE SEQUENCE event_store.position_seq AS bigint MINVALUE :first_position MAXVALUE :last_position CACHE 1;
COMMENT ON SEQUENCE event_store.position_seq IS
'global positions; the lock that nextval takes on it is how readers know whom to wait for: nobody else may use it';

CREATE SEQUENCE event_store.stream_seq;
COMMENT ON SEQUENCE event_store.stream_seq IS 'ids of streams';

CREATE SEQUENCE event_store.floor_seq CACHE 1;
COMMENT ON SEQUENCE event_store.floor_seq IS
'the floor of event_store.mark, in microseconds since 2000: as appends read it, which must not visit old versions of that row';
