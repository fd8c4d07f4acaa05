"""The terminal's side of all jobs: exit codes, error lines, how numbers are written."""

import io
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NoReturn

import yaml

from pipeline.errors import ClusterError, LabellingError, PathError, StorageError, is_store_failure
from pipeline.printable import EscapingFormatter, escape_controls

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75
"""Stopped before the end, nothing lost: EX_TEMPFAIL of sysexits.h, try again later."""
EXIT_PIPE = 141
"""Nobody reads what the job prints: what a shell reports of a program that SIGPIPE ended, 128 + 13."""


def run_job(job: Callable[[], int]) -> int:
    """Run a job; what the user can mend becomes one line and exit code 2, all else stays a traceback.

    A job whose output goes into a pipe ends when the pipe's reader does, as `--help | head` expects.
    """
    sys.stdout, sys.stderr = _end_with_reader(sys.stdout), _end_with_reader(sys.stderr)
    if logging.lastResort is not None:
        # What prints warnings of loggers without handlers, as ours are.
        logging.lastResort.setFormatter(EscapingFormatter("%(message)s"))
    try:
        return job()
    except PathError as error:
        print_lines(f"error: {error}", to_stderr=True)
        return EXIT_BAD_INPUT
    except (StorageError, ClusterError) as error:
        # The command may be right, and the store or the cluster be back in a minute.
        print_lines(f"error: {error}", to_stderr=True)
        return EXIT_FAILED
    except (LabellingError, ValueError, FileNotFoundError) as error:
        if isinstance(error, ValueError) and not _is_ours(error):
            raise
        print_lines(f"error: {error}", to_stderr=True)
        return EXIT_BAD_INPUT
    except OSError as error:
        if not is_store_failure(error):
            raise
        print_lines(f"error: {error}", to_stderr=True)
        return EXIT_FAILED


def print_lines(*lines: str, to_stderr: bool = False) -> None:
    """Print each text as one line, with every character escaped that a terminal would obey, newlines too.

    Names, keys and tags come from files of others.
    """
    for line in lines:
        print(escape_controls(line), file=sys.stderr if to_stderr else sys.stdout, flush=True)


class _PipeEnd(io.FileIO):
    """A file that ends this process, quietly, when nobody reads it any more; as SIGPIPE does with other programs.

    Python ignores SIGPIPE for the sake of its sockets, so a print raises. Any thread may print, and what is raised in
    the middle of the work could be taken for a store that fails; what is committed stays in any case.
    """

    def write(self, payload: Any, /) -> int:
        try:
            return super().write(payload)
        except BrokenPipeError:
            os._exit(EXIT_PIPE)


def _end_with_reader(stream: Any) -> Any:
    """Give a stream in place of standard output or standard error that ends this process with its reader."""
    if stream is None or stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    stream.flush()
    pipe: Any = _PipeEnd(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        # As Python itself does: nothing is kept back where PYTHONUNBUFFERED asks for that.
        pipe if stream.write_through else io.BufferedWriter(pipe),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def leave(code: int) -> NoReturn:
    """End this process with an exit code, for certain.

    A job that was stopped may still have a thread in the middle of Ray's core, which ends the process with exit code 1
    when Ray is shut down under it. So nothing is shut down: all work is done, and Ray's processes follow their driver.
    """
    if code != EXIT_STOPPED:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_ours(error: BaseException) -> bool:
    """Tell a complaint about arguments, raised by this project, from a defect deep inside a library."""
    traceback = error.__traceback__
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    module = traceback.tb_frame.f_globals.get("__name__", "") if traceback else ""
    return module.split(".")[0] in ("tagmask", "jobs", "pipeline", "models", "__main__")


def print_config(facts: Mapping[str, Any], config: Any) -> None:
    """Print a configuration as YAML, the facts first."""
    plain = {**facts, **_to_plain(asdict(config))}
    text = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, allow_unicode=True)
    print_lines(*text.split("\n"))


def _to_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_to_plain(inner) for inner in value]
    return str(value) if isinstance(value, str) else value


def format_duration(seconds: float) -> str:
    """Write a duration for people.

    >>> format_duration(4.2), format_duration(75), format_duration(7300), format_duration(200000)
    ('4 s', '1 min 15 s', '2 h 01 min', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def format_bytes(num_bytes: float) -> str:
    """Write a size for people.

    >>> format_bytes(512), format_bytes(54_000), format_bytes(3 * 2**30)
    ('512 B', '52.7 KiB', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if num_bytes < 1024 or unit == "TiB":
            break
        num_bytes /= 1024
    return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
