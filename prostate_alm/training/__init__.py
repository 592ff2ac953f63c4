"""From a cohort to trained members: networks, engines, the two stages, handlers, many members at once."""
