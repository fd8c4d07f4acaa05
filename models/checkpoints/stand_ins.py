"""Stand-ins for the Python objects of a pickled checkpoint that are not tensors.

`torch.load(weights_only=True)` refuses a file that names any type outside its list, and checkpoints commonly contain
an `argparse.Namespace`, paths, NumPy scalars or a configuration. None of them is needed, so none is made: each name
outside PyTorch's list is given a stand-in of this module, which stores its state and imports or calls nothing.
Allowing the real types would be wrong even for harmless ones: unpickling imports their packages.

A stand-in makes any file harmless. A file that calls functions is refused all the same: it is no checkpoint.
"""

import re
import sys
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from models.checkpoints.pickles import PickledName
from models.weights import CheckpointError

HARMLESS_CALLS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|pathlib(\._local)?\.\w*Path|uuid\.(UUID|SafeUUID)"
    r"|datetime\.\w+|decimal\.Decimal|fractions\.Fraction|functools\.partial"
    r"|collections\.(defaultdict|deque|Counter|OrderedDict)"
    r"|builtins\.(dict|list|tuple|set|frozenset|slice|range|object|int|float|bool|str|bytes|complex)"
    r"|numpy\.(dtype|ndarray|dtypes\.\w+)|numpy\.(core|_core)\.(multiarray|numeric)\.(scalar|_reconstruct|_frombuffer)"
    r"|numpy\.random\._pickle\.\w+|copyreg\._reconstructor"
)
"""Full names whose calls in a pickle only make a value."""


class Record:
    """An object of a checkpoint that is not made: the name of its type, and its state."""

    type_name = ""
    """Full name in the file."""

    arguments: tuple[Any, ...]
    """What it is made of."""
    state: Any
    """What it is set to; None without a state."""

    def __new__(cls, *arguments: Any, **_: Any) -> Any:
        """Make a record without a state."""
        record = object.__new__(cls)
        record.arguments, record.state = arguments, None
        return record

    def __setstate__(self, state: Any) -> None:
        """Store the state that the real object would be set to."""
        self.state = state


class _CallGuard(type):
    """Type of the stand-ins: a pickle that creates an object uses `__new__`, one that calls something this method."""

    type_name: str

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        if not is_harmless_call(cls.type_name):
            raise CheckpointError(
                f"it calls the function {cls.type_name} when it is unpickled, so it is a program and not weights; do "
                "not trust this file, get the weights as .safetensors"
            )
        new: Any = cls.__new__
        return new(cls, *arguments, **named)


def is_harmless_call(name: str) -> bool:
    """Check whether the call of a full name makes a value: one of a known type, or of a class of another package.

    >>> [is_harmless_call(name) for name in ("pathlib.PosixPath", "their.Mode", "posix.system", "subprocess.Popen")]
    [True, True, False, False]
    """
    if HARMLESS_CALLS.fullmatch(name):
        return True
    package, _, own = name.partition(".")
    return package not in sys.stdlib_module_names and own.rpartition(".")[2][:1].isupper()


def make_stand_ins(found: Iterable[PickledName]) -> list[Any]:
    """Make the stand-in of each name of a pickle, as `torch.serialization.safe_globals` takes them."""
    pairs: list[Any] = []
    for one in found:
        stand_in = _make_stand_in(one)
        pairs += [(stand_in, name) for name in {one.name, one.raw_name}]
    return pairs


def _make_stand_in(found: PickledName) -> type:
    makers: dict[str, Any] = {}
    # PyTorch fills exact dicts and lists only.
    if found.is_mapping:
        makers = {"__new__": lambda _, *__, **___: OrderedDict()}
    elif found.is_list:
        makers = {"__new__": lambda _, *__, **___: []}
    return _CallGuard("Record", (Record,), {"type_name": found.name, **makers})
