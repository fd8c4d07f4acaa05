"""Data of training: survey of the shards, order of an epoch, stream of augmented images, batches.

No network and no loss.
"""
