"""Training; in this folder only what its parts share: configuration, random seeds, events.

Parts: data (shards to batches), worker (batches to weights), driver (start, records, bundle). Nothing here runs.
"""
