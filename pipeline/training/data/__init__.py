"""Shards as a stream of training batches."""
