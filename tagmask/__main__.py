"""Run a command of tagmask, whatever packages the current folder holds."""

import sys
from pathlib import Path


def main() -> None:
    """Run the command line of this process, and end it."""
    # `jobs`, `models` and `pipeline` are names that folders of users have, too, and those may come first: by `python
    # -m`, or by an empty entry of PYTHONPATH.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from jobs.command_line.commands import main as run_command
    from jobs.command_line.console import leave

    leave(run_command())


if __name__ == "__main__":
    main()
