-- The first schema of the Go implementation: a file is a large object, and goes with its row.
CREATE TABLE files (
    file_id oid PRIMARY KEY DEFAULT lo_create(0),
    name text UNIQUE NOT NULL,
    size bigint,
    type text,
    digest text,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION delete_file() RETURNS trigger AS $$
BEGIN
    PERFORM lo_unlink(OLD.file_id);
    RETURN NULL;
END
$$ LANGUAGE plpgsql;

CREATE TRIGGER delete_file AFTER DELETE ON files FOR EACH ROW EXECUTE PROCEDURE delete_file();
