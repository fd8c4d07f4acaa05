"""Command lines to options; terminal output and exit codes. Imports neither PyTorch nor Ray."""
