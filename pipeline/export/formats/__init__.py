"""Formats of exported data sets, one module each, and their catalogue.

What a row is, which rows are taken and how a shard is committed belongs to `export/job/`.
"""
