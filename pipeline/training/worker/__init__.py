"""What each training worker runs: network, steps, validation, checkpoints."""
