"""Worker processes of a run: their heartbeats, hangs, deaths and retries.

What the workers compute does not belong here; no torch.
"""
