"""Exports of published runs: rows that are taken, one task a shard, joint files at the end.

How a data set looks belongs to `export/formats/`.
"""
