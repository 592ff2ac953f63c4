"""The paper's experiments: plans as data, the search over candidates, tables beside the paper's."""

from prostate_alm.extras import require

require(__name__, "train")
