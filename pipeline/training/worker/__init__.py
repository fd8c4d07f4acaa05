"""A training worker: network, steps, schedules, validation, checkpoints.

No reading of shards, no files of the run.
"""
