"""From the words of a command line to options, and back to lines and exit codes. Imports neither PyTorch nor Ray."""
