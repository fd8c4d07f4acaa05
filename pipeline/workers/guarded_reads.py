"""Reads that may kill their process: a shard that has killed several is read in a child process.

Ray runs a dead read task again (a codec's abort, a signal, out of memory) and takes its items by index: items yielded
before the death are not taken twice. That is safe here, as the items of a shard are a function of the shard. A child
process yields the same items as the task itself. A shard that also kills the child ends with an error at that place.
If an earlier attempt got further (it died for another reason), the items after that place are lost in this wave, and
none is wrong: a shard is published only when every chunk up to its end is committed, and each chunk is committed under
its own name. The count of such a shard stays. So a task that Ray runs again later, because its outputs were lost with
a node, reads the same items in the same way.
"""

import multiprocessing
import os
import pickle
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import TypeVar

from pipeline.errors import OutageError, ShardError, describe_exception
from pipeline.storage.outage import is_outage
from pipeline.workers.attempts import MAX_DEATHS, MAX_DEATHS_IN_ALL, Attempts

CHILD_MEMORY_SHARE = 0.25
"""Share of the machine's memory that the child process may use, so that it fails before its neighbours do."""
MIN_CHILD_MEMORY_BYTES = 4 * 2**30
ITEM_TIMEOUT_S = 1500.0
"""Seconds without an item after which a child process counts as hung. The limit of its parent is longer."""
EXIT_TIMEOUT_S = 10.0
"""Grace period of a child process whose connection is closed: a core dump takes a moment."""

Item = TypeVar("Item")


def read_guarded(
    uri: str, read: Callable[[], Iterable[Item]], attempts: Attempts, *, reader: str = ""
) -> Iterator[Item]:
    """Yield the items of `read`; from a child process after `MAX_DEATHS` deaths.

    Args:
        uri: Of the shard, for messages and for the count of deaths.
        read: Deterministic and picklable, with picklable items.
        attempts: Counter of deaths, shared by all processes that may read the shard.
        reader: Distinguishes concurrent readers of one shard: the open attempt of another reader is not a death.

    Raises:
        ShardError: The child process also died.
    """
    name = f"read {uri} {reader}".strip()
    num_deaths = attempts.begin(name)
    if num_deaths >= MAX_DEATHS_IN_ALL:
        raise ShardError(f"shard '{uri}' cannot be read: {num_deaths} processes died with it; look at their logs")
    if num_deaths >= MAX_DEATHS:
        try:
            yield from read_in_child(uri, read)
        except OutageError:
            # Not a death. The count is restored, so that the shard is read in a child process the next time, too.
            attempts.finish(name)
            for _ in range(MAX_DEATHS):
                attempts.begin(name)
            raise
        return
    try:
        yield from read()
    finally:
        # Any ending that reaches this line is not a death.
        attempts.finish(name)


def read_in_child(uri: str, read: Callable[[], Iterable[Item]]) -> Iterator[Item]:
    """Yield the items of `read`, called in a child process; it is at most one item ahead.

    Raises:
        ShardError: The child process died.
        Exception: Of `read`.
    """
    # A forked child would inherit locks of the parent's threads.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve_items, args=(sender, pickle.dumps(read)), daemon=True)
    child.start()
    sender.close()
    try:
        while (answer := _receive_items(receiver)) is not None:
            error, items = answer
            if error is not None:
                raise error
            if not items:
                return
            yield from items
        child.join(EXIT_TIMEOUT_S)
        how = _describe_exit(child.exitcode)
    finally:
        receiver.close()
        # If it still runs, nothing reads its items.
        child.kill()
        child.join()
    raise ShardError(
        f"shard '{uri}' cannot be read: it ends the processes that read it ({how}); look at "
        "the shard, copy it again or leave it out"
    )


def _receive_items(receiver: Connection) -> tuple[Exception | None, list] | None:
    """Receive an error, an item, or no item at the end; None if the child process died or hangs."""
    try:
        return receiver.recv() if receiver.poll(ITEM_TIMEOUT_S) else None
    except (EOFError, ConnectionError):
        return None


def _serve_items(sender: Connection, read: bytes) -> None:
    """Send the items of a pickled reader; the main function of the child process."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = max(MIN_CHILD_MEMORY_BYTES, int(machine * CHILD_MEMORY_SHARE))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    try:
        for item in pickle.loads(read)():
            sender.send((None, [item]))
        sender.send((None, []))
    except BrokenPipeError:
        return
    except Exception as error:  # noqa: BLE001 (raised again in the parent)
        sender.send((_make_picklable(error), []))


def _make_picklable(error: Exception) -> Exception:
    """Convert an error to a picklable one; some exceptions cannot be rebuilt, and none keeps its cause."""
    if is_outage(error):
        return OutageError(str(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 (any failure to pickle; the text is picklable)
        return RuntimeError(describe_exception(error))
    return error


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None:
        return f"no item for {ITEM_TIMEOUT_S:.0f} s"
    if exit_code < 0:
        return f"signal {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
