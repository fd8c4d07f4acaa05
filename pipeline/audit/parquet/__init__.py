"""Parquet files, checked byte by byte. The format of manifests belongs to audit/."""
