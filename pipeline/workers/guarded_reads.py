"""Reading that may kill its process: a shard that has killed several is read in a child process.

A read task that dies (a codec's abort, a signal, no memory) is run again by Ray, which takes what it yields by index:
what was yielded before the death is not taken twice. That is safe here, as what a shard yields is a function of the
shard: a child process yields the same items as the task itself would, and a shard that kills the child too ends, at the
place of its death, with an error. Should an attempt once have come further (it died for another reason), then items
behind that place are lost in this wave and none is wrong: a shard is published only when every chunk up to its end was
committed, and chunks are committed under names of their own. The count of a shard that came so far stays, so that a
task that is run again later, as its outputs were lost with a node, takes the same way to the same items.
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
"""What the child process may take of the machine's memory, so that it, and not its neighbours, is what fails."""
MIN_CHILD_MEMORY_BYTES = 4 * 2**30
ITEM_TIMEOUT_S = 1500.0
"""A child process that gives nothing for so long hangs. Its parent, which would leave it behind, has a longer limit."""
EXIT_TIMEOUT_S = 10.0
"""How long a child process whose connection is closed may take to end: a core dump takes a moment."""

Item = TypeVar("Item")


def read_guarded(
    uri: str, read: Callable[[], Iterable[Item]], attempts: Attempts, *, reader: str = ""
) -> Iterator[Item]:
    """Give what `read` gives; from a child process if it has killed `MAX_DEATHS` processes.

    Args:
        uri: Of what is read; names it in messages and in the count of deaths.
        read: Gives the same items whenever it is called; goes to the child process by pickle, as they do back.
        attempts: Counts the deaths, in all processes that may read the shard.
        reader: Tells those apart that may read one shard at the same time: what another has begun is no death.

    Raises:
        ShardError: The child process died, too.
    """
    name = f"read {uri} {reader}".strip()
    num_deaths = attempts.begin(name)
    if num_deaths >= MAX_DEATHS_IN_ALL:
        raise ShardError(f"shard '{uri}' cannot be read: {num_deaths} processes died with it; look at their logs")
    if num_deaths >= MAX_DEATHS:
        try:
            yield from read_in_child(uri, read)
        except OutageError:
            # No death. The count stays where it was, so that the shard is read in a child process the next time, too.
            attempts.finish(name)
            for _ in range(MAX_DEATHS):
                attempts.begin(name)
            raise
        return
    try:
        yield from read()
    finally:
        # Whatever comes by here is no death.
        attempts.finish(name)


def read_in_child(uri: str, read: Callable[[], Iterable[Item]]) -> Iterator[Item]:
    """Give what `read` gives, called in a child process; one item is ahead at the most.

    Raises:
        ShardError: The child process died.
        Exception: What `read` raised.
    """
    # A forked child would share the parent's threads and locks; it must start from nothing.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(sender, pickle.dumps(read)), daemon=True)
    child.start()
    sender.close()
    try:
        while (answer := _receive(receiver)) is not None:
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
        # If it is still there, then it reads for nobody.
        child.kill()
        child.join()
    raise ShardError(
        f"shard '{uri}' cannot be read: it ends the processes that read it ({how}); look at "
        "the shard, copy it again or leave it out"
    )


def _receive(receiver: Connection) -> tuple[Exception | None, list] | None:
    """Receive from the child an error, an item, or no item at the end; None if it has died, or hangs."""
    try:
        return receiver.recv() if receiver.poll(ITEM_TIMEOUT_S) else None
    except (EOFError, ConnectionError):
        return None


def _serve(sender: Connection, read: bytes) -> None:
    """Send what a pickled reader gives, as the child process."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = max(MIN_CHILD_MEMORY_BYTES, int(machine * CHILD_MEMORY_SHARE))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    try:
        for item in pickle.loads(read)():
            sender.send((None, [item]))
        sender.send((None, []))
    except BrokenPipeError:
        return
    except Exception as error:  # noqa: BLE001 (raised again by the parent, as if it had read)
        sender.send((_make_portable(error), []))


def _make_portable(error: Exception) -> Exception:
    """Give an error that can travel; some exceptions are not made of their arguments, and none takes its cause."""
    if is_outage(error):
        return OutageError(str(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 (whatever stands in the way, its words can travel)
        return RuntimeError(describe_exception(error))
    return error


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None:
        return f"no item for {ITEM_TIMEOUT_S:.0f} s"
    if exit_code < 0:
        return f"signal {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
