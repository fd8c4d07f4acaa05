"""A training worker: network, steps, schedules, validation, checkpoints.

It reads no shards and writes no files of the run except checkpoints.
"""
