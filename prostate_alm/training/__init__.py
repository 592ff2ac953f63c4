"""From a cohort to trained members: networks, engines, the two stages, handlers, many members at once."""

from prostate_alm.extras import require

require(__name__, "train", "serve")
