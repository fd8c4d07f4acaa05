"""New masks of a published run whose class maps were kept."""
