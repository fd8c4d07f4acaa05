"""Index of a collection against its source, listed and read again without the code of collections/."""
