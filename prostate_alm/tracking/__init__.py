"""MLflow: one parent run for an ensemble, one child run for each member. Nothing else imports mlflow.

The files in the folders of results are the truth; a store holds a copy of them, which can be made at any time.
"""

from prostate_alm.extras import require

require(__name__, "train")

from prostate_alm.results.tracking_uri import DEFAULT_URI, NO_TRACKING, resolve_uri
from prostate_alm.tracking.ensemble_run import (
    SyncReport,
    fail_ensemble_run,
    log_ensemble,
    log_member,
    start_ensemble_run,
    sync_results,
)
from prostate_alm.tracking.member_run import MemberRun, NewRun, resume_member_run, start_member_run
from prostate_alm.tracking.store import StoreUnreachableError, prepare_store

__all__ = [
    "DEFAULT_URI",
    "NO_TRACKING",
    "MemberRun",
    "NewRun",
    "StoreUnreachableError",
    "SyncReport",
    "fail_ensemble_run",
    "log_ensemble",
    "log_member",
    "prepare_store",
    "resolve_uri",
    "resume_member_run",
    "start_ensemble_run",
    "start_member_run",
    "sync_results",
]
