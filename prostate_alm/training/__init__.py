"""From a cohort to a trained member: networks, the two stages, handlers, tracking."""
