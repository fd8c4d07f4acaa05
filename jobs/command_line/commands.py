"""The command `tagmask`: which commands there are, and how one is run."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata

from jobs.command_line.console import EXIT_BAD_INPUT, EXIT_OK, print_lines, run_job

COMMANDS = {
    "label": "label tagged image shards with masks",
    "train": "train a model on tagged image shards",
    "evaluate": "score masks against true masks",
    "remask": "make new masks from kept class maps",
    "calibrate": "find thresholds for the class maps of a labelling run",
    "export": "export masks and images as a data set of other tools",
    "report": "make a page with figures and pictures of a labelling run",
    "review": "look at masks in a browser, worst first, and judge them",
    "import-masks": "import masks that people corrected in annotation tools",
    "status": "say how far a run is, and who works on it",
    "verify": "check that every sample of every input is a row, once",
    "import-checkpoint": "turn a checkpoint of the MCTformer authors into a model bundle",
    "demo": "train, label and score made-up photos on this machine, in minutes",
}
"""What each command does; its module in `jobs` has its name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, with the words that follow, and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else "--help"
    if name in COMMANDS:
        # A command imports what it needs, and no other's.
        job = importlib.import_module(f"jobs.{name.replace('-', '_')}")
        code: int = job.main(words[1:])
        return code
    return run_job(lambda: _answer(name, is_asked=bool(words)))


def _answer(name: str, *, is_asked: bool) -> int:
    """Answer a first word that is no command; no word at all is one that asks for help, and an error."""
    if name == "--version":
        print_lines(f"tagmask {metadata.version('tagmask')}")
    elif name in ("-h", "--help", "help"):
        print_lines(*_list_commands(), to_stderr=not is_asked)
        return EXIT_OK if is_asked else EXIT_BAD_INPUT
    else:
        alike = difflib.get_close_matches(name, COMMANDS, n=1)
        advice = f"did you mean '{alike[0]}'?" if alike else "tagmask --help lists the commands"
        print_lines(f"error: '{name}' is not a command of tagmask; {advice}", to_stderr=True)
        return EXIT_BAD_INPUT
    return EXIT_OK


def _list_commands() -> list[str]:
    width = max(map(len, COMMANDS))
    return [
        "usage: tagmask COMMAND [OPTIONS]",
        "",
        "Image tags to segmentation masks, at cluster scale.",
        "",
        *(f"  {name:{width}}  {purpose}" for name, purpose in COMMANDS.items()),
        "",
        "tagmask COMMAND --help shows the common options of a command, --help-all shows all.",
        "tagmask --version shows the version.",
    ]
