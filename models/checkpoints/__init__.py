"""Foreign checkpoints as tensors: which file it is, safe reading, the choice among several models, what they look like.

Nothing of MCTformer's layers; importers belong to `models/importers.py`.
"""
