"""Kinds of tables by the suffix of their file."""

from pipeline.run.records import PARQUET_SUFFIX

CSV_SUFFIXES = (".csv", ".tsv")
LINES_SUFFIXES = (".jsonl", ".ndjson")
TEXT_SUFFIXES = (*CSV_SUFFIXES, *LINES_SUFFIXES)
PARQUET_SUFFIXES = (PARQUET_SUFFIX, ".pq")
GZIP_SUFFIX = ".gz"


def strip_suffix(uri: str) -> str:
    """Suffix of a table in small letters, without that of gzip.

    >>> strip_suffix("data/A.CSV.gz"), strip_suffix("data/x")
    ('.csv', '')
    """
    name = uri.rpartition("/")[2].lower().removesuffix(GZIP_SUFFIX)
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix}" if stem and dot else ""
