"""Corrected masks from annotation tools: what their files say about which image, and how it becomes a file of a run.

How such files are read back belongs to published/.
"""
