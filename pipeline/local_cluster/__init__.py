"""A cluster of child processes on one machine, for runs that end before Ray has started. No Ray here, and no torch."""
