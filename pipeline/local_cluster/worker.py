"""A child process of the local cluster: reads a shard, processes and commits its chunks, takes the next one.

It ends with its driver: when the driver's end of the connection closes, the whole process group is killed.
"""

import logging
import os
import queue
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from pipeline.commit.worker_reports import read_report
from pipeline.errors import LabellingError, describe_exception
from pipeline.local_cluster.messages import Answer, Call, Done, Failed, Ready, Reported, Setup, Work
from pipeline.printable import EscapingFormatter
from pipeline.workers.pulse import Beat, Reporting

logger = logging.getLogger(__name__)


class Driver:
    """The driver's end of the connection: its board of heartbeats, and its counter of attempts."""

    def __init__(self, connection: Connection) -> None:
        """Start the thread that receives messages."""
        self._connection = connection
        self._sending, self._asking = threading.Lock(), threading.Lock()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        """Messages that are no answers."""
        threading.Thread(target=self._receive, name="driver", daemon=True).start()

    def _receive(self) -> None:
        try:
            while True:
                message = self._connection.recv()
                if isinstance(message, Answer):
                    self._answers.put(message.value)
                else:
                    self.inbox.put(message)
        except (EOFError, OSError):
            end_with_driver()

    def send(self, message: Any) -> None:
        """Send a message."""
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:
            end_with_driver()

    def beat(self, worker: str, doing: str, waiting_for: str | None) -> None:
        """Report that this process is busy."""
        arguments = {"worker": worker, "doing": doing, "waiting_for": waiting_for}
        self.send(Call(method="beat", arguments=arguments, wants_answer=False))

    def read(self) -> dict[str, Beat]:
        """Read nothing: only the driver reads the board."""
        return {}

    def begin(self, chunk: str) -> int:
        """Record the start of a chunk; return the number of earlier unfinished attempts."""
        return int(self._ask("begin", chunk))

    def finish(self, chunk: str) -> None:
        """Record the end of a chunk."""
        self._ask("finish", chunk)

    def _ask(self, method: str, chunk: str) -> Any:
        # An answer belongs to the only question under way.
        with self._asking:
            self.send(Call(method=method, arguments={"chunk": chunk}, wants_answer=True))
            return self._answers.get()


def end_with_driver() -> None:
    """Kill this process and its own children, which are its process group."""
    os.killpg(os.getpgid(0), signal.SIGKILL)


def serve(fd: int) -> None:
    """Run a child process: the main function.

    Args:
        fd: File descriptor of the connection to the driver.
    """
    _log_to_output()
    driver = Driver(Connection(fd))
    try:
        setup: Setup = driver.inbox.get()
        reporting = Reporting(board=driver, store_outage_s=setup.store_outage_s)
        process = setup.workers.start(reporting, driver)
        driver.send(Ready())
        while True:
            work: Work = driver.inbox.get()
            for row in setup.plan_read([work.shard], reporting, driver).read():
                report = read_report(process(row))
                if report is not None:
                    driver.send(Reported(report=report))
            driver.send(Done())
    except Exception as error:  # of any type: the driver decides what follows
        logger.exception("this process cannot go on")
        driver.send(Failed(error=error if isinstance(error, LabellingError) else _describe(error)))


def _describe(error: Exception) -> Exception:
    # Not every exception can be rebuilt from its pickle.
    return RuntimeError(describe_exception(error))


def _log_to_output() -> None:
    """Log to the standard error of this process, which is a file of the driver."""
    handler = logging.StreamHandler()
    handler.setFormatter(EscapingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("pipeline")
    package.setLevel(logging.INFO)
    package.addHandler(handler)
