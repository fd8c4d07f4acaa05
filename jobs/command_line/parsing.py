"""From the words of a command line to the options of a job; old names of flags, and which options `--help` shows."""

import argparse
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Annotated, Any, TypeVar, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from jobs.command_line.console import print_lines
from pipeline.storage.uris import normalise_uri, require_no_password

Job = TypeVar("Job")

HELP_FLAGS = ("-h", "--help")
HELP_ALL = "--help-all"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How a command is called."""

    command: str
    """Its name, as in `tagmask NAME`."""
    description: str | None
    """Text of `--help`."""
    basic: frozenset[str] | None = None
    """Names of the fields that `--help` shows; `--help-all` shows all. None: there are so few that both show all."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """New flags by their old names; an old name may hold a value, such as `--flag False`."""


def parse(job_type: type[Job], usage: Usage, arguments: Sequence[str] | None, default: Job | None = None) -> Job:
    """Read a command line, `sys.argv` if None; enumerations are written by their values, as everywhere else.

    Args:
        job_type: Dataclass of the options.
        usage: Of the command.
        arguments: Words of the command line.
        default: Where options that are not given come from; None: the defaults of `job_type`.

    Raises:
        ValueError: An argument is a URI that holds a password or lacks a slash, or a value is out of range.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    refuse_passwords(words)
    words = [normalise_word(word) for word in rename_flags(words, usage.renamed)]
    shown: frozenset[str] | None = None
    description = usage.description or ""
    if HELP_ALL in words:
        words = [HELP_FLAGS[-1]]
    elif usage.basic is not None and any(word in HELP_FLAGS for word in words):
        shown = usage.basic
        description += f"\nThese are the common options; {HELP_ALL} shows all.\n"
    parsed: Any = tyro.cli(
        job_type,
        prog=name_program(usage.command),
        description=description,
        args=words,
        default=default,
        config=(tyro.conf.EnumChoicesFromValues,),
        registry=_hide_fields(shown),
    )
    job: Job = parsed
    _check(job)
    return job


def _check(options: object) -> None:
    """Call the `check` of options and of those within them. Not while tyro reads them: it frames what is raised there.

    Raises:
        ValueError: A value is out of range.
    """
    # Formats of exports check themselves against a run, which is opened later.
    if callable(check := getattr(options, "check", None)) and not inspect.signature(check).parameters:
        check()
    for value in vars(options).values():
        if is_dataclass(value):
            _check(value)


def name_program(command: str) -> str:
    """Name a command as it was called: by the script, or by its module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec and spec.name.startswith("jobs.") else f"tagmask {command}"


def rename_flags(arguments: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """Write flags by their new names, with a hint for each old one.

    >>> rename_flags(["--tags", "a", "--workers=2"], {"--actors": "--workers"})
    ['--tags', 'a', '--workers=2']
    """
    words = list(arguments)
    written = []
    while words:
        flag, equals, value = words.pop(0).partition("=")
        name = "--" + flag.removeprefix("--").replace("_", "-") if flag.startswith("--") else flag
        followed = f"{name} {value if equals else next(iter(words), '')}"
        if followed in renamed:
            _hint(followed, renamed[followed])
            written.append(renamed[followed])
            words = words if equals else words[1:]
        elif name in renamed:
            _hint(name, renamed[name])
            written.append(renamed[name] + equals + value)
        else:
            written.append(flag + equals + value)
    return written


def _hint(old: str, new: str) -> None:
    print_lines(f"warning: {old} is now {new}", to_stderr=True)


def peek(arguments: Sequence[str] | None, option: str) -> str | None:
    """Find the value of one option before the others are parsed, for it decides their defaults.

    >>> peek(["--recipe", "v2", "--epochs", "3"], "--recipe"), peek(["--epochs=3"], "--epochs"), peek([], "--epochs")
    ('v2', '3', None)
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument(option, dest="value")
    value: str | None = early.parse_known_args(arguments)[0].value
    return value


def refuse_passwords(arguments: Sequence[str]) -> None:
    """Check that no word of a command line holds a secret. Runs before all parsing, whose errors repeat words.

    Raises:
        ValueError: An argument is a URI with a password in it.
    """
    for argument in arguments:
        require_no_password(argument.partition("=")[2] if argument.startswith("--") else argument)


def normalise_word(word: str) -> str:
    """Write the scheme of a URI on a command line in lower case: identities of runs hold URIs.

    >>> normalise_word("--out=S3://b"), normalise_word("@GS://b/list.txt"), normalise_word("photos.tar")
    ('--out=s3://b', '@gs://b/list.txt', 'photos.tar')

    Raises:
        ValueError: A URI lacks a slash.
    """
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    mark = "@" if value.startswith("@") else ""
    return flag + equals + mark + normalise_uri(value.removeprefix("@"))


def _hide_fields(shown: frozenset[str] | None) -> ConstructorRegistry:
    """Make tyro omit the fields that a job fills in and, for `--help`, all but the named ones; none can be given."""
    registry = ConstructorRegistry()
    is_nested = False

    @registry.struct_rule
    def hide(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal is_nested
        if is_nested or not is_dataclass(info.type):
            return None
        is_nested = True
        spec = ConstructorRegistry.get_struct_spec(info)
        is_nested = False
        assert isinstance(spec, StructConstructorSpec), "a dataclass has fields"
        filled_in = {item.name for item in dataclass_fields(info.type) if "is_filled_in" in item.metadata}
        listed = {item.name for item in spec.fields if shown is None or item.name in shown} - filled_in
        return replace(spec, fields=tuple(_hide_unless(item.name in listed, item) for item in spec.fields))

    return registry


def _hide_unless(is_shown: bool, item: StructFieldSpec) -> StructFieldSpec:
    kind: Any = get_args(item.type)[0] if get_origin(item.type) is Annotated else item.type
    if is_shown or is_dataclass(kind):
        return item
    hidden: Any = tyro.conf.Suppress
    return replace(item, type=hidden[item.type])
