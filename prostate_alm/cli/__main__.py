"""`python -m prostate_alm.cli` is `prostate-alm`."""

import sys

from prostate_alm.cli import main

sys.exit(main())
