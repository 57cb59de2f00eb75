"""A few threads for work that numpy does outside of Python's lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")

MOST = 4
"""More would wait for the memory, and each takes some megabytes itself."""

_NO_MORE = object()


def for_each(items: Iterable[Item], do: Callable[[Item], object], threads: int) -> None:
    """Do something with every item, in any order; returns when all is done.

    Args:
        items: taken one by one.
        do: may be called by several threads at once. Once it raises, no more items are taken.
        threads: how many may work, the caller's own included; at most ``MOST`` do, no more than
            there are items, and fewer where the system gives no more.

    Raises:
        BaseException: the first that ``do`` raised.
    """
    waiting = list(items)
    left, lock = iter(waiting), threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            with lock:
                item = next(left, _NO_MORE)
            if item is _NO_MORE:
                return
            try:
                do(item)  # type: ignore[arg-type]
            except BaseException as error:
                errors.append(error)

    helpers: list[threading.Thread] = []
    for _ in range(min(threads, MOST, len(waiting)) - 1):
        helper = threading.Thread(target=work, daemon=True)
        try:
            helper.start()
        except RuntimeError:  # the system has no more threads for us
            break
        helpers.append(helper)
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
