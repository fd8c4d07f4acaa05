"""What each command takes: one dataclass of options a command. No work, no heavy imports."""
