"""Ray as the jobs use it: connection, number of workers, signals and stops."""
