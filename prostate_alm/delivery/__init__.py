"""From a trained ensemble to what is used: a packed model, predictions for new studies, reports, a node of a PACS."""

from prostate_alm.extras import require

require(__name__, "serve")
