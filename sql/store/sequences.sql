-- The store's sequences.
--
-- first_position and last_position: the bounds of this node's positions.

-- CACHE 1 matters: positions cached by a session would be allocated before its locks are taken.
CREATE SEQUENCE event_store.position_seq AS bigint MINVALUE :first_position MAXVALUE :last_position CACHE 1;
COMMENT ON SEQUENCE event_store.position_seq IS
'global positions; the lock that nextval takes on it is how readers know whom to wait for: nobody else may use it';

CREATE SEQUENCE event_store.stream_seq;
COMMENT ON SEQUENCE event_store.stream_seq IS 'ids of streams';
