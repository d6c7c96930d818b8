"""The schema of the service's database, one script for each format; see `tunerun.database`."""

from __future__ import annotations

from tunerun.database import DatabaseFormat

MIGRATIONS = (
    """
CREATE TABLE tuned_model (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL UNIQUE,
    folder TEXT NOT NULL UNIQUE, display_name TEXT NOT NULL, description TEXT NOT NULL, base_model TEXT NOT NULL,
    source TEXT, source_folder TEXT, temperature REAL, top_p REAL, top_k INTEGER, reader_projects TEXT NOT NULL,
    state TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL, started_at REAL, completed_at REAL,
    epoch_count INTEGER NOT NULL, batch_size INTEGER NOT NULL, learning_rate REAL NOT NULL,
    learning_rate_multiplier REAL, total_steps INTEGER NOT NULL, operation TEXT NOT NULL,
    is_cancelling INTEGER NOT NULL DEFAULT 0, can_answer INTEGER NOT NULL DEFAULT 0, error_code INTEGER,
    error_message TEXT);
CREATE INDEX tuned_model_state ON tuned_model (state);
CREATE TABLE training_data (
    key TEXT PRIMARY KEY REFERENCES tuned_model (key) ON DELETE CASCADE, examples TEXT NOT NULL);
CREATE TABLE snapshot (
    key TEXT NOT NULL REFERENCES tuned_model (key) ON DELETE CASCADE, step INTEGER NOT NULL, epoch INTEGER NOT NULL,
    mean_loss REAL NOT NULL, compute_time REAL NOT NULL, PRIMARY KEY (key, step)) WITHOUT ROWID;
CREATE TABLE permission (
    tuned_model TEXT NOT NULL REFERENCES tuned_model (id) ON DELETE CASCADE, id TEXT NOT NULL, grantee TEXT NOT NULL,
    email TEXT, role TEXT NOT NULL, created_at REAL NOT NULL, PRIMARY KEY (tuned_model, id),
    UNIQUE (tuned_model, grantee, email));
CREATE INDEX permission_email ON permission (email);
CREATE TABLE file (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, content BLOB NOT NULL, created_at REAL NOT NULL);
CREATE TABLE leftover (folder TEXT PRIMARY KEY)""",
    """
ALTER TABLE training_data ADD COLUMN validation TEXT NOT NULL DEFAULT '[]';
ALTER TABLE tuned_model ADD COLUMN validation_loss REAL;
ALTER TABLE tuned_model ADD COLUMN base_validation_loss REAL""",
    """
ALTER TABLE tuned_model ADD COLUMN seed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tuned_model ADD COLUMN suffix TEXT NOT NULL DEFAULT '';
ALTER TABLE tuned_model ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';
ALTER TABLE tuned_model ADD COLUMN notes TEXT NOT NULL DEFAULT '{}';
ALTER TABLE tuned_model ADD COLUMN keeps_epochs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tuned_model ADD COLUMN is_paused INTEGER NOT NULL DEFAULT 0;
CREATE TABLE epoch (
    key TEXT NOT NULL REFERENCES tuned_model (key) ON DELETE CASCADE, epoch INTEGER NOT NULL, step INTEGER NOT NULL,
    validation_loss REAL, folder TEXT NOT NULL, created_at REAL NOT NULL, PRIMARY KEY (key, epoch)) WITHOUT ROWID;
ALTER TABLE tuned_model ADD COLUMN trained_tokens INTEGER;
CREATE TABLE stored_file (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, name TEXT NOT NULL,
    purpose TEXT NOT NULL, size INTEGER NOT NULL, created_at REAL NOT NULL, expires_at REAL);
CREATE INDEX stored_file_owner ON stored_file (owner)""",
)

FORMAT = DatabaseFormat(table="tuned_model", migrations=MIGRATIONS, place="--state")
