"""Index of a collection against its source, listed and read again."""
