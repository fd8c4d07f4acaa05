"""Let datumaro read a data set and write it again in a format of its choice."""

import json
import sys

from datumaro.components.dataset import Dataset


def main() -> None:
    """Read the arguments from standard input."""
    arguments = json.load(sys.stdin)
    dataset = Dataset.import_from(arguments["folder"], arguments["form"])
    # datumaro reports what it does.
    dataset.export(arguments["out"], arguments["to_form"], save_media=False, **arguments["options"])
    sys.stdout.write("null")


if __name__ == "__main__":
    main()
