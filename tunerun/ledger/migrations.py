"""The ledger's schema as the steps that led to it; see `tunerun.database`."""

from __future__ import annotations

from tunerun.database import DatabaseFormat
from tunerun.ledger.answers import asked_of, texts_of
from tunerun.ledger.checksums import row_checksum, snapshot_checksum
from tunerun.ledger.rows import with_relative_location

# A checksum is the last column of its table and covers all before it: whatever else the step changes comes first.
_CHECKSUMS = """ALTER TABLE sweep ADD COLUMN checksum INTEGER;
UPDATE sweep SET checksum = row_checksum(id, experiment, created_at, document);
ALTER TABLE example_set ADD COLUMN checksum INTEGER;
UPDATE example_set SET checksum = row_checksum(digest, source, examples);
ALTER TABLE trial ADD COLUMN checksum INTEGER;
UPDATE trial SET checksum = row_checksum(
    sweep, number, key, baseline, evaluation, training, validation, tokens, steps, overrides, config, ingredients);
ALTER TABLE job ADD COLUMN checksum INTEGER;
UPDATE job SET checksum = row_checksum(
    id, key, attempt, backend, model, tokens, reference, state, metrics, tuned_model, failure, created_at, started_at,
    finished_at, sweep, usd, tuned_model_id);
ALTER TABLE snapshot ADD COLUMN checksum INTEGER;
UPDATE snapshot SET checksum = snapshot_checksum(job, step, epoch, mean_loss, compute_time);
ALTER TABLE evaluation ADD COLUMN predictions_checksum INTEGER;
ALTER TABLE evaluation ADD COLUMN checksum INTEGER;
UPDATE evaluation SET predictions_checksum = row_checksum(predictions);
UPDATE evaluation SET checksum = row_checksum(subject, options, metrics, created_at, predictions_checksum)"""

# A config that is damaged must not end the migration: its row fails its checksum when it is read.
_GENERATION = "CASE WHEN json_valid(config) THEN json_extract(config, '$.evaluation.generation') END"

# Answers in the place of measures, whatever asked for them; held-out sets by name; baselines of their own. A row whose
# bytes had changed keeps a checksum that does not fit, so that it is found by those who read it.
_ANSWERS = """
CREATE TABLE answers (
    subject TEXT NOT NULL, held_out TEXT NOT NULL, asked TEXT NOT NULL, answers TEXT NOT NULL, created_at REAL NOT NULL,
    answers_checksum INTEGER, checksum INTEGER, PRIMARY KEY (subject, held_out, asked));
CREATE INDEX trial_evaluation ON trial (evaluation);
INSERT OR IGNORE INTO answers
    SELECT subject, held_out, asked, answers, created_at, new_checksum,
        CASE WHEN is_whole THEN row_checksum(subject, held_out, asked, created_at, new_checksum) END
    FROM (
        SELECT subject, trial.validation AS held_out, asked_of(GENERATION) AS asked, texts_of(predictions) AS answers,
            created_at, row_checksum(texts_of(predictions)) AS new_checksum,
            evaluation.predictions_checksum = row_checksum(predictions) AND evaluation.checksum =
            row_checksum(subject, options, metrics, created_at, predictions_checksum) AS is_whole
        FROM evaluation JOIN trial ON trial.rowid = (
            SELECT min(rowid) FROM trial WHERE evaluation = options AND validation IS NOT NULL)
        ORDER BY created_at);
DROP TABLE evaluation;
CREATE TABLE baseline (
    sweep TEXT NOT NULL REFERENCES sweep, position INTEGER NOT NULL, subject TEXT NOT NULL, name TEXT NOT NULL,
    kind TEXT NOT NULL, document TEXT NOT NULL, checksum INTEGER, PRIMARY KEY (sweep, position));
INSERT INTO baseline
    SELECT sweep, position, baseline, name, 'base', '{}', row_checksum(sweep, position, baseline, name, 'base', '{}')
    FROM (
        SELECT sweep, position, baseline, CASE WHEN number_of = 1 THEN 'base' ELSE 'base-' || position END AS name
        FROM (
            SELECT sweep, baseline, count(*) OVER (PARTITION BY sweep) AS number_of,
                row_number() OVER (PARTITION BY sweep ORDER BY min(number)) - 1 AS position
            FROM trial GROUP BY sweep, baseline));
CREATE TABLE new_trial (
    sweep TEXT NOT NULL REFERENCES sweep, number INTEGER NOT NULL, key TEXT NOT NULL, baselines TEXT NOT NULL,
    asked TEXT NOT NULL, training TEXT NOT NULL REFERENCES example_set, held_out TEXT NOT NULL, tokens INTEGER NOT NULL,
    steps INTEGER NOT NULL, overrides TEXT NOT NULL, config TEXT NOT NULL, ingredients TEXT NOT NULL, checksum INTEGER,
    PRIMARY KEY (sweep, number));
INSERT INTO new_trial
    SELECT sweep, number, key, baselines, asked, training, held_out, tokens, steps, overrides, config, ingredients,
        CASE WHEN is_whole THEN row_checksum(
            sweep, number, key, baselines, asked, training, held_out, tokens, steps, overrides, config, ingredients) END
    FROM (
        SELECT *, json_array(baseline) AS baselines, asked_of(GENERATION) AS asked,
            CASE WHEN validation IS NULL THEN '{}' ELSE json_object('validation', validation) END AS held_out,
            checksum = row_checksum(
                sweep, number, key, baseline, evaluation, training, validation, tokens, steps, overrides, config,
                ingredients) AS is_whole
        FROM trial)
    ORDER BY rowid;
DROP TABLE trial;
ALTER TABLE new_trial RENAME TO trial;
CREATE INDEX trial_key ON trial (key);
CREATE TABLE opening (
    sweep TEXT NOT NULL REFERENCES sweep, opened_at REAL NOT NULL, points TEXT NOT NULL, held_out TEXT NOT NULL,
    checksum INTEGER);
CREATE TABLE some_answers (
    subject TEXT NOT NULL, held_out TEXT NOT NULL, asked TEXT NOT NULL, start INTEGER NOT NULL, answers TEXT NOT NULL,
    checksum INTEGER, PRIMARY KEY (subject, held_out, asked, start));
CREATE TABLE epoch_loss (
    job INTEGER NOT NULL REFERENCES job, epoch INTEGER NOT NULL, loss REAL NOT NULL, checksum INTEGER,
    PRIMARY KEY (job, epoch)) WITHOUT ROWID""".replace("GENERATION", _GENERATION)

# Steps are only ever added: a ledger of any earlier format comes up to date by those it has not passed.
MIGRATIONS = (
    """
CREATE TABLE sweep (
    id TEXT PRIMARY KEY, experiment TEXT NOT NULL, created_at REAL NOT NULL, document TEXT NOT NULL);
CREATE TABLE example_set (digest TEXT PRIMARY KEY, source TEXT NOT NULL, examples TEXT NOT NULL);
CREATE TABLE trial (
    sweep TEXT NOT NULL REFERENCES sweep, number INTEGER NOT NULL, key TEXT NOT NULL, baseline TEXT NOT NULL,
    evaluation TEXT NOT NULL, training TEXT NOT NULL REFERENCES example_set, validation TEXT REFERENCES example_set,
    tokens INTEGER NOT NULL, steps INTEGER NOT NULL, overrides TEXT NOT NULL, config TEXT NOT NULL,
    PRIMARY KEY (sweep, number));
CREATE INDEX trial_key ON trial (key);
CREATE TABLE job (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, attempt INTEGER NOT NULL, backend TEXT NOT NULL, model TEXT NOT NULL,
    tokens INTEGER NOT NULL, reference TEXT, state TEXT NOT NULL, metrics TEXT NOT NULL, tuned_model TEXT,
    failure TEXT, created_at REAL NOT NULL, started_at REAL, finished_at REAL, UNIQUE (key, attempt));
CREATE UNIQUE INDEX job_live ON job (key) WHERE state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED');
CREATE INDEX job_model ON job (backend, model, state);
CREATE TABLE snapshot (
    job INTEGER NOT NULL REFERENCES job, step INTEGER NOT NULL, epoch INTEGER NOT NULL, mean_loss REAL NOT NULL,
    compute_time REAL NOT NULL, PRIMARY KEY (job, step)) WITHOUT ROWID;
CREATE TABLE evaluation (
    subject TEXT NOT NULL, options TEXT NOT NULL, metrics TEXT NOT NULL, predictions TEXT NOT NULL,
    created_at REAL NOT NULL, PRIMARY KEY (subject, options));
CREATE TABLE mark (
    tracker TEXT NOT NULL, subject TEXT NOT NULL, run_id TEXT, document TEXT NOT NULL,
    PRIMARY KEY (tracker, subject))""",
    # What a key was made of, so that a plan can say why it differs; who watches a job and what it costs; cancelling.
    """
ALTER TABLE trial ADD COLUMN ingredients TEXT NOT NULL DEFAULT '{}';
ALTER TABLE job ADD COLUMN sweep TEXT;
ALTER TABLE job ADD COLUMN usd REAL NOT NULL DEFAULT 0;
CREATE TABLE cancel_request (
    sweep TEXT NOT NULL REFERENCES sweep, number INTEGER NOT NULL, PRIMARY KEY (sweep, number))""",
    # Locations that can move; a checksum for each row that is read back; a state that is final.
    # A tracker's run belongs to a trial's key, not to one of the sweeps that share it; the oldest sweep's run counts.
    # What the engine has counted goes by the name that MLflow shows.
    """
INSERT OR IGNORE INTO mark SELECT mark.tracker, sweep.experiment || '/trial/' || trial.key, mark.run_id, mark.document
    FROM sweep JOIN trial ON trial.sweep = sweep.id JOIN mark ON mark.subject = sweep.id || '/trial/' || trial.number
    ORDER BY sweep.rowid, trial.number;
DELETE FROM mark WHERE subject IN (SELECT sweep || '/trial/' || number FROM trial);
UPDATE job SET metrics = replace(metrics, '"train/tokens"', '"tokens/train"');
ALTER TABLE job ADD COLUMN tuned_model_id TEXT;
UPDATE job SET tuned_model = with_relative_location(tuned_model) WHERE tuned_model IS NOT NULL;
DROP INDEX job_live;
CREATE UNIQUE INDEX job_live ON job (key) WHERE state NOT IN ('SUCCEEDED', 'STOPPED', 'FAILED', 'CANCELLED');
"""
    + _CHECKSUMS,
    _ANSWERS,
    # What trained a job. An opening may be of a sweep that a restored record does not have: the test set is shared.
    """
ALTER TABLE job ADD COLUMN trained_on TEXT;
ALTER TABLE job ADD COLUMN new_checksum INTEGER;
UPDATE job SET new_checksum = row_checksum(id, key, attempt, backend, model, tokens, reference, state, metrics,
    tuned_model, failure, created_at, started_at, finished_at, sweep, usd, tuned_model_id, trained_on)
    WHERE checksum = row_checksum(id, key, attempt, backend, model, tokens, reference, state, metrics, tuned_model,
    failure, created_at, started_at, finished_at, sweep, usd, tuned_model_id);
ALTER TABLE job DROP COLUMN checksum;
ALTER TABLE job RENAME COLUMN new_checksum TO checksum;
CREATE TABLE new_opening (
    sweep TEXT NOT NULL, opened_at REAL NOT NULL, points TEXT NOT NULL, held_out TEXT NOT NULL, checksum INTEGER);
INSERT INTO new_opening SELECT * FROM opening ORDER BY rowid;
DROP TABLE opening;
ALTER TABLE new_opening RENAME TO opening""",
    # What judges said, and how far they agree with people.
    """
CREATE TABLE rating (
    judge TEXT NOT NULL, item TEXT NOT NULL, score REAL, reason TEXT NOT NULL, usd REAL NOT NULL, sweep TEXT,
    created_at REAL NOT NULL, checksum INTEGER, PRIMARY KEY (judge, item));
CREATE INDEX rating_sweep ON rating (sweep);
CREATE TABLE agreement (
    judge TEXT NOT NULL, sample TEXT NOT NULL, document TEXT NOT NULL, checksum INTEGER,
    PRIMARY KEY (judge, sample))""",
)

FORMAT = DatabaseFormat(
    table="sweep",
    migrations=MIGRATIONS,
    place="paths.runs",
    functions={
        "row_checksum": row_checksum,
        "snapshot_checksum": snapshot_checksum,
        "with_relative_location": with_relative_location,
        "asked_of": asked_of,
        "texts_of": texts_of,
    },
)

SCHEMA_VERSION = FORMAT.version
"""The `PRAGMA user_version` of a ledger that this program has written."""
