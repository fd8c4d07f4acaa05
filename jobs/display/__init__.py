"""What long jobs print while they run."""
