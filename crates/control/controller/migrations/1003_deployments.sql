-- Who takes up a deployment that another worker left goes on where that one was: back, when it has failed or is to end.

ALTER TABLE deployments ADD COLUMN failure text;
ALTER TABLE deployments ADD COLUMN cancelled_at timestamptz;

CREATE INDEX scale_requests_formation_idx ON scale_requests (app_id, release_id, created_at);
