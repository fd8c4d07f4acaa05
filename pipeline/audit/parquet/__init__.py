"""Parquet files byte by byte. Knows nothing of manifests."""
