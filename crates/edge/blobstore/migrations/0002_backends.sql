-- Files have ids, their content may be elsewhere, and rows outlive them (spec build-and-deploy section 11.2).
CREATE EXTENSION IF NOT EXISTS "uuid-ossp";

DROP TRIGGER delete_file ON files;
DROP FUNCTION delete_file();
ALTER TABLE files RENAME TO old_files;

CREATE TABLE files (
    file_id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    file_oid oid,
    external_id uuid,
    backend text NOT NULL,
    name text NOT NULL,
    type text NOT NULL,
    size bigint,
    sha512 bytea,
    sha512_state bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX files_live_name ON files (name) WHERE deleted_at IS NULL;
CREATE INDEX files_file_oid ON files (file_oid);

INSERT INTO files (file_oid, backend, name, type, size, sha512, created_at, updated_at)
SELECT file_id, 'postgres', name, coalesce(type, ''), size, decode(digest, 'hex'), created_at, created_at
FROM old_files;
DROP TABLE old_files;

CREATE FUNCTION delete_file() RETURNS trigger AS $$
BEGIN
    IF NEW.deleted_at IS NOT NULL AND OLD.file_oid IS NOT NULL THEN
        PERFORM lo_unlink(OLD.file_oid);
        NEW.file_oid := NULL;
    END IF;
    RETURN NEW;
END
$$ LANGUAGE plpgsql;

CREATE TRIGGER delete_file BEFORE UPDATE OF deleted_at ON files FOR EACH ROW EXECUTE PROCEDURE delete_file();
