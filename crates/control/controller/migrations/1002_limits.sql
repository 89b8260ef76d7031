-- Sizes and numbers that were too narrow, and indexes for lists that were read whole.

ALTER TABLE artifacts ALTER COLUMN size TYPE bigint;

CREATE INDEX job_cache_app_id_idx ON job_cache (app_id, created_at);
CREATE INDEX job_cache_active_idx ON job_cache (updated_at)
  WHERE state IN ('pending', 'blocked', 'starting', 'up', 'stopping');
CREATE INDEX scale_requests_pending_idx ON scale_requests (app_id, release_id) WHERE state = 'pending';
CREATE INDEX deployments_app_id_idx ON deployments (app_id, created_at);

-- Whatever the checks of ports are called: 65535 is a port.
DO $$
DECLARE
  old record;
BEGIN
  FOR old IN
    SELECT conrelid::regclass AS owner, conname FROM pg_constraint
    WHERE contype = 'c' AND conrelid IN ('http_routes'::regclass, 'tcp_routes'::regclass)
      AND pg_get_constraintdef(oid) LIKE '%port%'
  LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', old.owner, old.conname);
  END LOOP;
END
$$;
ALTER TABLE http_routes ADD CONSTRAINT http_routes_port_check CHECK (port BETWEEN 0 AND 65535);
ALTER TABLE tcp_routes ADD CONSTRAINT tcp_routes_port_check CHECK (port BETWEEN 1 AND 65535);

-- A path needs the default route of its domain on its own port.
CREATE OR REPLACE FUNCTION check_http_route_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.deleted_at IS NOT NULL THEN
    IF NEW.path = '/' AND OLD.deleted_at IS NULL AND EXISTS (
      SELECT FROM http_routes
      WHERE lower(domain) = lower(NEW.domain) AND port = NEW.port AND path <> '/' AND deleted_at IS NULL
    ) THEN
      RAISE EXCEPTION 'default route for % has dependent routes', NEW.domain;
    END IF;
    RETURN NEW;
  END IF;
  IF NEW.path !~ '^/(.*/)?$' THEN
    RAISE EXCEPTION 'path % does not begin and end with a slash', NEW.path;
  END IF;
  IF NEW.path <> '/' AND NOT EXISTS (
    SELECT FROM http_routes
    WHERE lower(domain) = lower(NEW.domain) AND port = NEW.port AND path = '/' AND deleted_at IS NULL
  ) THEN
    RAISE EXCEPTION 'default route for % does not exist', NEW.domain;
  END IF;
  RETURN NEW;
END
$$;
