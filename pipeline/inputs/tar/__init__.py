"""Parts of a tar archive: bytes and headers, names of members, hard links, counts. Samples are in `tar_reader.py`."""
