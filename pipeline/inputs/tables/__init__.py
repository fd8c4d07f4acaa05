"""Tables as files: CSV, JSON lines and Parquet, and columns in paths. What a table is for does not belong here."""
