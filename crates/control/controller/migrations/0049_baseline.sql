-- The schema of the Go controller after its migration 49, in one step. A database that was restored from a backup of
-- the Go implementation has it already and starts at 1000.

CREATE EXTENSION IF NOT EXISTS "uuid-ossp";
CREATE EXTENSION IF NOT EXISTS pgcrypto;

-- Names that columns may hold.

CREATE TABLE deployment_strategies (name text PRIMARY KEY);
INSERT INTO deployment_strategies VALUES
  ('all-at-once'), ('one-by-one'), ('discoverd-meta'), ('sirenia'), ('one-down-one-up'), ('in-batches');

CREATE TABLE event_types (name text PRIMARY KEY);
INSERT INTO event_types VALUES
  ('app'), ('app_deletion'), ('app_release'), ('app_garbage_collection'), ('artifact'), ('cluster_backup'),
  ('deployment'), ('domain_migration'), ('job'), ('key'), ('key_deletion'), ('provider'), ('release'),
  ('release_deletion'), ('resource'), ('resource_app_deletion'), ('resource_deletion'), ('route'), ('route_deletion'),
  ('scale'), ('scale_request'), ('scale_request_cancelation'), ('sink'), ('sink_deletion'), ('volume');

CREATE TABLE job_states (name text PRIMARY KEY);
INSERT INTO job_states VALUES
  ('starting'), ('up'), ('down'), ('crashed'), ('failed'), ('pending'), ('stopping'), ('blocked');

CREATE TABLE backup_statuses (name text PRIMARY KEY);
INSERT INTO backup_statuses VALUES ('running'), ('complete'), ('error');

CREATE TABLE sink_kinds (name text PRIMARY KEY);
INSERT INTO sink_kinds VALUES ('syslog');

CREATE TABLE scale_request_states (name text PRIMARY KEY);
INSERT INTO scale_request_states VALUES ('pending'), ('cancelled'), ('complete');

CREATE TABLE volume_types (name text PRIMARY KEY);
INSERT INTO volume_types VALUES ('data'), ('squashfs'), ('ext2');

CREATE TABLE volume_states (name text PRIMARY KEY);
INSERT INTO volume_states VALUES ('pending'), ('created'), ('destroyed');

CREATE TABLE release_types (name text PRIMARY KEY);
INSERT INTO release_types VALUES ('code'), ('config');

CREATE SEQUENCE event_ids;
CREATE SEQUENCE name_ids MAXVALUE 4294967295;

-- Apps, what they are made of, and how much of it runs.

CREATE TABLE artifacts (
  artifact_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  type text NOT NULL,
  uri text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  meta jsonb,
  manifest jsonb,
  hashes jsonb,
  size int,
  layer_url_template text
);
CREATE UNIQUE INDEX artifacts_type_uri_idx ON artifacts (type, uri) WHERE deleted_at IS NULL;

CREATE TABLE releases (
  release_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  meta jsonb,
  env jsonb,
  processes jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  app_id uuid
);

CREATE TABLE apps (
  app_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  name text NOT NULL,
  release_id uuid REFERENCES releases (release_id),
  meta jsonb,
  strategy text NOT NULL DEFAULT 'all-at-once' REFERENCES deployment_strategies (name),
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  deploy_timeout int NOT NULL DEFAULT 30
);
CREATE UNIQUE INDEX apps_name_idx ON apps (name) WHERE deleted_at IS NULL;

ALTER TABLE releases
  ADD CONSTRAINT releases_app_id_fkey FOREIGN KEY (app_id) REFERENCES apps (app_id),
  ADD CONSTRAINT releases_app_id_check CHECK (app_id IS NOT NULL OR deleted_at IS NOT NULL);
CREATE INDEX releases_app_id_idx ON releases (app_id) WHERE deleted_at IS NULL;

CREATE TABLE release_artifacts (
  release_id uuid NOT NULL REFERENCES releases (release_id),
  artifact_id uuid NOT NULL REFERENCES artifacts (artifact_id),
  created_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  index int NOT NULL,
  PRIMARY KEY (release_id, artifact_id)
);
CREATE UNIQUE INDEX release_artifacts_release_id_index_idx ON release_artifacts (release_id, index)
  WHERE deleted_at IS NULL;

CREATE TABLE formations (
  app_id uuid NOT NULL REFERENCES apps (app_id),
  release_id uuid NOT NULL REFERENCES releases (release_id),
  processes jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  tags jsonb,
  PRIMARY KEY (app_id, release_id)
);

CREATE TABLE scale_requests (
  scale_request_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  app_id uuid NOT NULL REFERENCES apps (app_id),
  release_id uuid NOT NULL REFERENCES releases (release_id),
  state text NOT NULL REFERENCES scale_request_states (name),
  old_processes jsonb,
  new_processes jsonb,
  old_tags jsonb,
  new_tags jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE job_cache (
  cluster_id text NOT NULL,
  app_id uuid NOT NULL REFERENCES apps (app_id),
  release_id uuid NOT NULL REFERENCES releases (release_id),
  process_type text,
  state text NOT NULL CONSTRAINT job_state_fkey REFERENCES job_states (name),
  meta jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  exit_status int,
  host_error text,
  run_at timestamptz,
  restarts int,
  job_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  host_id text,
  args jsonb
);

CREATE TABLE volumes (
  volume_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  host_id text NOT NULL,
  type text NOT NULL REFERENCES volume_types (name),
  state text NOT NULL REFERENCES volume_states (name),
  app_id uuid,
  release_id uuid,
  job_id uuid,
  job_type text,
  path text,
  delete_on_stop bool NOT NULL DEFAULT false,
  meta jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  decommissioned_at timestamptz
);

CREATE TABLE job_volumes (
  job_id uuid NOT NULL REFERENCES job_cache (job_id),
  volume_id uuid NOT NULL REFERENCES volumes (volume_id),
  index int NOT NULL DEFAULT 0,
  PRIMARY KEY (job_id, volume_id)
);

CREATE TABLE deployments (
  deployment_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  app_id uuid NOT NULL,
  old_release_id uuid REFERENCES releases (release_id),
  new_release_id uuid NOT NULL REFERENCES releases (release_id),
  strategy text NOT NULL REFERENCES deployment_strategies (name),
  processes jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  deploy_timeout int NOT NULL DEFAULT 30,
  tags jsonb,
  deploy_batch_size int,
  type text NOT NULL REFERENCES release_types (name)
);
CREATE UNIQUE INDEX isolate_deploys ON deployments (app_id) WHERE finished_at IS NULL;

CREATE TABLE events (
  event_id bigint PRIMARY KEY DEFAULT nextval('event_ids'),
  app_id uuid REFERENCES apps (app_id),
  object_type text NOT NULL REFERENCES event_types (name),
  object_id text NOT NULL,
  unique_id text,
  data jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  op text
);
CREATE INDEX events_object_type_idx ON events (object_type);
CREATE UNIQUE INDEX events_unique_id_idx ON events (unique_id);

-- What providers made.

CREATE TABLE providers (
  provider_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  name text NOT NULL UNIQUE,
  url text NOT NULL UNIQUE,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz
);

CREATE TABLE resources (
  resource_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  provider_id uuid NOT NULL REFERENCES providers (provider_id),
  external_id text NOT NULL,
  env jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  UNIQUE (provider_id, external_id)
);

CREATE TABLE app_resources (
  app_id uuid NOT NULL REFERENCES apps (app_id),
  resource_id uuid NOT NULL REFERENCES resources (resource_id),
  created_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  PRIMARY KEY (app_id, resource_id)
);
CREATE INDEX app_resources_resource_id_idx ON app_resources (resource_id);

-- The cluster.

CREATE TABLE domain_migrations (
  migration_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  old_domain text NOT NULL,
  domain text NOT NULL,
  old_tls_cert jsonb,
  tls_cert jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz
);

CREATE TABLE backups (
  backup_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  status text NOT NULL REFERENCES backup_statuses (name),
  sha512 text,
  size bigint,
  error text,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  completed_at timestamptz,
  deleted_at timestamptz
);

CREATE TABLE sinks (
  sink_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  kind text NOT NULL REFERENCES sink_kinds (name),
  config jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz
);

CREATE TABLE que_jobs (
  priority smallint NOT NULL DEFAULT 100,
  run_at timestamptz NOT NULL DEFAULT now(),
  job_id bigserial NOT NULL,
  job_class text NOT NULL,
  args json NOT NULL DEFAULT '[]',
  error_count int NOT NULL DEFAULT 0,
  last_error text,
  queue text NOT NULL DEFAULT '',
  locked_until timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (queue, priority, run_at, job_id)
);
COMMENT ON TABLE que_jobs IS '3';

-- Routes.

CREATE TABLE http_routes (
  id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  parent_ref varchar(255) NOT NULL,
  service varchar(255) NOT NULL CHECK (service <> ''),
  domain varchar(255) NOT NULL CHECK (domain <> ''),
  sticky bool NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  path text NOT NULL DEFAULT '/',
  leader bool NOT NULL DEFAULT false,
  drain_backends bool NOT NULL DEFAULT true,
  port int NOT NULL DEFAULT 0 CHECK (port > -1 AND port < 65535),
  disable_keep_alives bool NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX http_routes_domain_port_path_key ON http_routes (domain, port, path) WHERE deleted_at IS NULL;

CREATE TABLE tcp_routes (
  id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  parent_ref varchar(255) NOT NULL,
  service varchar(255) NOT NULL CHECK (service <> ''),
  port int NOT NULL CHECK (port > 0 AND port < 65535),
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  leader bool NOT NULL DEFAULT false,
  drain_backends bool NOT NULL DEFAULT true
);
CREATE UNIQUE INDEX tcp_routes_port_key ON tcp_routes (port) WHERE deleted_at IS NULL;

CREATE TABLE certificates (
  id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  cert text NOT NULL,
  key text NOT NULL,
  cert_sha256 bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz
);
CREATE UNIQUE INDEX certificates_cert_sha256_idx ON certificates (cert_sha256) WHERE deleted_at IS NULL;

CREATE TABLE route_certificates (
  http_route_id uuid NOT NULL REFERENCES http_routes (id) ON DELETE CASCADE,
  certificate_id uuid NOT NULL REFERENCES certificates (id) ON DELETE RESTRICT,
  PRIMARY KEY (http_route_id, certificate_id)
);

-- Functions that queries use.

CREATE FUNCTION jsonb_merge(jsonb, jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
  SELECT coalesce($1, '{}') || coalesce($2, '{}')
$$;

CREATE FUNCTION jsonb_array_to_text_array(jsonb) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
  SELECT ARRAY(SELECT jsonb_array_elements_text($1))
$$;

-- Operators: 0 in, 1 not in, 2 exists, 3 does not exist.
CREATE FUNCTION match_label_expression(expression jsonb, labels jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE coalesce((expression->>'op')::int, 0)
    WHEN 0 THEN coalesce(expression->'values' ? (labels->>(expression->>'key')), false)
    WHEN 1 THEN NOT coalesce(expression->'values' ? (labels->>(expression->>'key')), false)
    WHEN 2 THEN coalesce(labels ? (expression->>'key'), false)
    WHEN 3 THEN NOT coalesce(labels ? (expression->>'key'), false)
    ELSE false
  END
$$;

CREATE FUNCTION match_label_filter(filter jsonb, labels jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT coalesce(bool_and(match_label_expression(expression, labels)), true) FROM jsonb_array_elements(filter) expression
$$;

CREATE FUNCTION match_label_filters(filters jsonb, labels jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT coalesce(bool_or(match_label_filter(filter, labels)), true) FROM jsonb_array_elements(filters) filter
$$;

CREATE FUNCTION deployment_status(deployment_id uuid) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT data->>'status' FROM events
  WHERE object_type = 'deployment' AND object_id = $1::text
  ORDER BY created_at DESC LIMIT 1
$$;

CREATE FUNCTION check_job_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RETURN NEW;
END
$$;

-- Triggers.

CREATE FUNCTION notify_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('events', concat_ws(':', NEW.event_id, NEW.app_id));
  RETURN NULL;
END
$$;
CREATE TRIGGER notify_event AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION notify_event();

CREATE FUNCTION check_release_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.deleted_at IS NOT NULL AND EXISTS (SELECT FROM apps WHERE release_id = NEW.release_id) THEN
    RAISE EXCEPTION 'cannot delete current app release' USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER check_release_delete AFTER UPDATE ON releases FOR EACH ROW EXECUTE FUNCTION check_release_delete();

CREATE FUNCTION check_artifact_manifest() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.type = 'flynn' AND NEW.manifest IS NULL THEN
    RAISE EXCEPTION 'artifacts of type flynn must have a manifest' USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER check_artifact_manifest AFTER INSERT ON artifacts
  FOR EACH ROW EXECUTE FUNCTION check_artifact_manifest();

CREATE FUNCTION check_http_route_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.deleted_at IS NOT NULL THEN
    IF NEW.path = '/' AND OLD.deleted_at IS NULL AND EXISTS (
      SELECT FROM http_routes WHERE domain = NEW.domain AND path <> '/' AND deleted_at IS NULL
    ) THEN
      RAISE EXCEPTION 'default route for % has dependent routes', NEW.domain;
    END IF;
    RETURN NEW;
  END IF;
  IF NEW.path = '' THEN
    NEW.path := '/';
  END IF;
  IF right(NEW.path, 1) <> '/' THEN
    NEW.path := NEW.path || '/';
  END IF;
  IF NEW.path !~ '^/(.*/)?$' THEN
    RAISE EXCEPTION 'path % does not begin with a slash', NEW.path;
  END IF;
  IF NEW.path <> '/' AND NOT EXISTS (
    SELECT FROM http_routes WHERE domain = NEW.domain AND path = '/' AND deleted_at IS NULL
  ) THEN
    RAISE EXCEPTION 'default route for % does not exist', NEW.domain;
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER check_http_route_update BEFORE INSERT OR UPDATE ON http_routes
  FOR EACH ROW EXECUTE FUNCTION check_http_route_update();

CREATE FUNCTION check_http_route_drain_backends() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.deleted_at IS NULL AND EXISTS (
    SELECT FROM http_routes
    WHERE service = NEW.service AND drain_backends <> NEW.drain_backends AND deleted_at IS NULL AND id <> NEW.id
  ) THEN
    RAISE EXCEPTION 'routes of service % differ in drain_backends', NEW.service;
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER check_http_route_drain_backends BEFORE INSERT OR UPDATE ON http_routes
  FOR EACH ROW EXECUTE FUNCTION check_http_route_drain_backends();
CREATE TRIGGER check_tcp_route_drain_backends BEFORE INSERT OR UPDATE ON tcp_routes
  FOR EACH ROW EXECUTE FUNCTION check_http_route_drain_backends();

CREATE FUNCTION set_tcp_route_port() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.port = 0 THEN
    SELECT min(port) INTO NEW.port FROM generate_series(3000, 3500) port
    WHERE port NOT IN (SELECT taken.port FROM tcp_routes taken WHERE taken.deleted_at IS NULL);
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER set_tcp_route_port BEFORE INSERT ON tcp_routes FOR EACH ROW EXECUTE FUNCTION set_tcp_route_port();

CREATE FUNCTION set_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.updated_at := now();
  RETURN NEW;
END
$$;
CREATE TRIGGER set_updated_at_http_routes BEFORE UPDATE ON http_routes
  FOR EACH ROW EXECUTE FUNCTION set_updated_at_column();
CREATE TRIGGER set_updated_at_tcp_routes BEFORE UPDATE ON tcp_routes
  FOR EACH ROW EXECUTE FUNCTION set_updated_at_column();

CREATE FUNCTION notify_http_route_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('http_routes', NEW.id::text);
  RETURN NULL;
END
$$;
CREATE TRIGGER notify_http_route_update AFTER INSERT OR UPDATE ON http_routes
  FOR EACH ROW EXECUTE FUNCTION notify_http_route_update();

CREATE FUNCTION notify_tcp_route_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('tcp_routes', NEW.id::text);
  RETURN NULL;
END
$$;
CREATE TRIGGER notify_tcp_route_update AFTER INSERT OR UPDATE ON tcp_routes
  FOR EACH ROW EXECUTE FUNCTION notify_tcp_route_update();

CREATE FUNCTION notify_route_certificates_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('http_routes', NEW.http_route_id::text);
  RETURN NULL;
END
$$;
CREATE TRIGGER notify_route_certificates_update AFTER INSERT OR UPDATE ON route_certificates
  FOR EACH ROW EXECUTE FUNCTION notify_route_certificates_update();
