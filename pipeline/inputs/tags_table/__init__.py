"""A table of tags beside the shards, joined by key."""
