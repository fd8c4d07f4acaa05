"""Input shards in, chunks of samples out; a new input format goes here.

Decoding of images does not belong here; no torch, no Ray.
"""
