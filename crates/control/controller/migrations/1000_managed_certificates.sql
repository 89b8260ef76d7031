-- What a fork calls migrations 50 and 51. Its databases have all of this already.

CREATE TABLE IF NOT EXISTS managed_certificate_statuses (name text PRIMARY KEY);
INSERT INTO managed_certificate_statuses VALUES ('pending'), ('issued'), ('failed'), ('renewing')
  ON CONFLICT DO NOTHING;
INSERT INTO event_types VALUES ('managed_certificate') ON CONFLICT DO NOTHING;

ALTER TABLE http_routes ADD COLUMN IF NOT EXISTS managed_certificate_domain varchar(255);

CREATE TABLE IF NOT EXISTS managed_certificates (
  id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
  domain varchar(255) NOT NULL CHECK (domain <> ''),
  route_id uuid NOT NULL REFERENCES http_routes (id) ON DELETE CASCADE,
  status text NOT NULL DEFAULT 'pending' REFERENCES managed_certificate_statuses (name),
  cert text,
  key text,
  cert_sha256 bytea,
  expires_at timestamptz,
  last_error text,
  last_error_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS managed_certificates_domain_key ON managed_certificates (domain)
  WHERE deleted_at IS NULL;
CREATE INDEX IF NOT EXISTS managed_certificates_route_id_idx ON managed_certificates (route_id);

CREATE TABLE IF NOT EXISTS acme_config (
  id int PRIMARY KEY DEFAULT 1 CHECK (id = 1),
  enabled bool NOT NULL DEFAULT false,
  contact_email varchar(255),
  directory_url varchar(512),
  terms_of_service_agreed bool NOT NULL DEFAULT false,
  account_key text,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO acme_config (id) VALUES (1) ON CONFLICT DO NOTHING;
