"""What the patterns of `--shards` name: list files and folders. Reading shards does not belong here."""
