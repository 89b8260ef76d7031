-- Ids of events become visible in their order, so that a client that resumes after an id misses nothing: whoever
-- inserts an event holds a lock until its transaction ends, and takes the lock before the id is drawn (a trigger before
-- the statement runs before the defaults of its rows). Transactions insert their events last, so the lock is short.

CREATE FUNCTION order_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('flynn'), hashtext('events'));
  RETURN NULL;
END
$$;
CREATE TRIGGER order_events BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION order_events();

-- Not the begin of the transaction: the order of times is the order of ids.
ALTER TABLE events ALTER COLUMN created_at SET DEFAULT clock_timestamp();

CREATE INDEX events_app_id_idx ON events (app_id, event_id);
CREATE INDEX events_object_idx ON events (object_type, object_id, event_id);
DROP INDEX IF EXISTS events_object_type_idx;

-- Dropped first: older databases may call its parameter otherwise.
DROP FUNCTION IF EXISTS deployment_status(uuid);
CREATE FUNCTION deployment_status(deployment_id uuid) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT data->>'status' FROM events
  WHERE object_type = 'deployment' AND object_id = $1::text
  ORDER BY event_id DESC LIMIT 1
$$;
