"""Ray for the jobs: connection, number of workers, signals and stops."""
