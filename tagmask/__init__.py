"""The command `tagmask`. Its code is in `jobs`, `pipeline` and `models`."""
