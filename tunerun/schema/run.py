"""The sections that say where a sweep's results go, what it may cost, and when it retries or stops."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunerun.section import Section


class Tracking(Section):
    """Where sweeps are published, in addition to the ledger."""

    kind: Literal["mlflow", "none"] = Field("mlflow", description="The tracker; none: only the ledger is written.")
    uri: str | None = Field(
        None,
        description="MLflow tracking URI; null: the environment variable MLFLOW_TRACKING_URI if set, else a SQLite "
        "file under paths.runs.",
    )
    experiment: str | None = Field(
        None,
        min_length=1,
        max_length=250,
        description="Name of the MLflow experiment; null: the environment variable MLFLOW_EXPERIMENT_NAME if set, else "
        "the experiment's name.",
    )


class Paths(Section):
    """Folders for results and caches."""

    runs: str = Field(
        "runs",
        min_length=1,
        description="Folder of the ledger, the tuned models and the local MLflow store, relative to the working "
        "directory.",
    )
    cache: str | None = Field(None, description="Folder of converted base models; null: the user's cache directory.")


class Budget(Section):
    """Limits on a sweep's cost. `plan` and `run` reject a plan above one; a run that reaches one submits no more jobs.

    Estimates count at the upper end of their range. Every job of the sweep counts, including running jobs and jobs that
    failed after a backend had accepted them: a service may charge for those too.
    """

    max_usd: float | None = Field(
        None,
        ge=0,
        description="Limit in US dollars, from model.price and the prices of judges; null: no limit.",
        json_schema_extra={"unit": "US dollars"},
    )
    max_tokens: int | None = Field(
        None,
        ge=0,
        description="Limit on tokens: training tokens over all epochs, and the prompts and answers of baselines; null: "
        "no limit.",
    )
    max_hours: float | None = Field(
        None, ge=0, description="Limit on the hours of one `run`; running jobs still finish; null: no limit."
    )


class Runner(Section):
    """When a run retries, and when it stops."""

    max_attempts: int = Field(
        3,
        ge=1,
        description="How many times one run submits a trial whose worker was lost or whose service was busy; 1: no "
        "retry.",
        json_schema_extra={"unit": "submissions of a trial"},
    )
    backoff_s: float = Field(
        1.0,
        ge=0,
        description="Seconds to wait before the second attempt, doubled for each further one, up to 60; 0: retry at "
        "once.",
    )
    max_failures: int | None = Field(
        3,
        ge=1,
        description="How many trials may fail for the same reason, with none succeeded, before the run stops; null: "
        "the run never stops for this.",
        json_schema_extra={"unit": "trials"},
    )
    stall_after_s: float = Field(
        600.0, gt=0, description="Seconds without a new step after which a running job is reported as stalled."
    )
    unreachable_after_s: float = Field(
        600.0,
        gt=0,
        description="Seconds without an answer from a service after which the run stops; the service's jobs continue.",
    )
