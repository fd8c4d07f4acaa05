"""The command `tagmask`. Its code is in `jobs`, `pipeline` and `models`."""

import sys
from pathlib import Path


def main() -> None:
    """Run the command line of this process, and end it."""
    # Users have folders called `jobs`, `models` and `pipeline`, too. Those come first by `python -m`, or by an empty
    # entry of PYTHONPATH.
    sys.path.insert(0, str(Path(__file__).parent))
    from jobs.command_line.commands import main as run_command
    from jobs.command_line.console import leave

    leave(run_command())


if __name__ == "__main__":
    main()
