"""A batch on a Ray cluster: its jobs are the rows of a dataset of Ray Data."""

# pyright: reportMissingImports=false
# What the extra `ray` installs may be missing.

from __future__ import annotations

import logging
import os
import pickle
import secrets
import signal
import threading
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bidiffsr.batch.events import Event, Failed, Finished, Saved
from bidiffsr.batch.needs import needs_for
from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import Job
from bidiffsr.batch.storage import shown, storage_of
from bidiffsr.batch.workers import ThisProcess
from bidiffsr.errors import BidiffsrError, OptionError
from bidiffsr.images.decode import MAX_PIXELS
from bidiffsr.images.image import Header
from bidiffsr.system.cpus import usable_cpus
from bidiffsr.system.memory import held_memory
from bidiffsr.system.process import keep_freed_memory
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler

LOCAL = "local"
"""The address for a cluster of this machine alone, while the batch lasts."""

# Before Ray is loaded: no statistics for its makers, no words of its own. (The last is what it
# leaves out of what it would print of its processes: all lines.)
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
# How often a picture's worker may die before the picture is given up.
_MOST_DEATHS = 2
# What Ray keeps rows in, of which ours are small; less is refused.
_OBJECT_BYTES = 100_000_000
# Pictures that one task reads the headers of.
_HEADERS_AT_ONCE = 32

Outcome = tuple[tuple[Saved, ...], Exception | None]


@dataclass(frozen=True)
class Cluster:
    """Does the jobs on a Ray cluster, see `Workers`.

    Every worker is a process of its own that holds the model. Where one dies, Ray starts another,
    which does the picture anew. A process that is connected to a cluster stays so, whatever the
    address.

    Args:
        address: as of `ray.init`; "auto" for the cluster that this machine is part of, or `LOCAL`.
        model: the model's file, which the workers are given.
        upscaler: the model here, for planning.
        running: keywords of `Upscaler.from_pretrained`; without threads, a worker has one.
        compare: whether it is said how results compare with their pictures.
    """

    address: str
    model: Path
    upscaler: Upscaler
    running: Mapping[str, Any]
    compare: bool = False

    def upscale(
        self, jobs: Sequence[Job], options: UpscaleOptions, files: FileOptions
    ) -> Generator[Event, None, None]:
        """See `Workers`; with nothing of a job before it ends.

        Raises:
            OptionError: there is no cluster, or it has no machine with so many threads.
            BidiffsrError: the cluster, or every worker at its start, has failed.
        """
        if not jobs:
            return
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        threads = self.running["threads"] or 1
        with _connected(self.address, max(threads, usable_cpus())):
            from ray.exceptions import RayError

            try:
                yield from self._upscale(jobs, options, files, threads)
            except RayError as error:
                text = " ".join(str(error).split())
                raise BidiffsrError(
                    f"the Ray cluster has failed ({text[-300:]}); what was finished is kept, "
                    "the same command goes on"
                ) from error

    def _upscale(
        self, jobs: Sequence[Job], options: UpscaleOptions, files: FileOptions, threads: int
    ) -> Iterator[Event]:
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.max_errored_blocks = -1
        # Workers that all have their one picture are reason enough to nearly double them.
        context.autoscaling_config.actor_pool_util_upscaling_threshold = 0.55
        _check_threads(threads)
        memory = options.memory or self._needed(jobs, options, files)
        running = {**self.running, "threads": threads}
        worker: Any = Worker  # a class, whose objects Ray Data calls
        name = f"bidiffsr/{secrets.token_hex(8)}"
        work = Work(
            *(name, self.model.read_bytes(), running, options, files, Path.cwd()), self.compare
        )
        rows = [{"number": n, "job": pickle.dumps(job)} for n, job in enumerate(jobs)]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            worker,
            fn_constructor_args=(work,),
            num_cpus=threads,
            num_gpus=None if running["device"] in (None, "cpu") else 1,
            memory=_most("memory", memory),
            # One, so that no other picture waits behind one that kills its worker.
            compute=ray.data.ActorPoolStrategy(min_size=1, max_tasks_in_flight_per_actor=1),
        )
        left = dict(enumerate(jobs))
        for row in done.iter_rows():
            job = left.pop(row["number"])
            saved, error = pickle.loads(row["outcome"])
            yield from saved
            yield Finished(job) if error is None else Failed(job, error)
        for job in left.values():
            lost = BidiffsrError(f"{shown(job.source)}: Ray has lost it; run it again")
            yield Failed(job, lost)

    def _needed(self, jobs: Sequence[Job], options: UpscaleOptions, files: FileOptions) -> int:
        """Bytes that a process holds that upscales the largest of the pictures."""
        import ray
        from ray.exceptions import RayError

        read = ray.remote(num_cpus=1)(_headers)
        most, needed = files.max_pixels or MAX_PIXELS, 0
        parts = [jobs[at : at + _HEADERS_AT_ONCE] for at in range(0, len(jobs), _HEADERS_AT_ONCE)]
        answers = [read.remote([job.source for job in part], most, Path.cwd()) for part in parts]
        for part, answer in zip(parts, answers, strict=True):
            # What is wrong with a picture shows when it is its turn.
            with suppress(RayError):
                for job, header in zip(part, ray.get(answer), strict=True):
                    with suppress(BidiffsrError):
                        if header is not None and job.error is None:
                            needs = needs_for(self.upscaler, job, job.files, options)
                            needed = max(needed, needs.room(self.upscaler, header).memory)
        return held_memory() + needed


@dataclass(frozen=True)
class Work:
    """What the workers of a batch have in common."""

    name: str
    """No other batch has it."""
    model: bytes
    running: Mapping[str, Any]
    options: UpscaleOptions
    files: FileOptions
    folder: Path
    """That paths begin in."""
    compare: bool


class Worker:
    """Does one job after the other, in a process of its own."""

    def __init__(self, work: Work) -> None:
        keep_freed_memory()
        _enter(work.folder)
        self._work = work
        with TemporaryDirectory(prefix="bidiffsr-", ignore_cleanup_errors=True) as folder:
            model = Path(folder, "model.safetensors")
            model.write_bytes(work.model)
            upscaler = Upscaler.from_pretrained(model, **work.running)
            self._here = ThisProcess(upscaler, compare=work.compare)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do the job of a row; its outcome is an `Outcome`."""
        job = pickle.loads(row["job"])
        with _counted(f"{self._work.name}/{row['number']}") as deaths:
            outcome = self._outcome(job) if deaths < _MOST_DEATHS else _given_up(job)
        return {"number": row["number"], "outcome": pickle.dumps(outcome)}

    def _outcome(self, job: Job) -> Outcome:
        saved: list[Saved] = []
        error: Exception | None = None
        for event in self._here.upscale([job], self._work.options, self._work.files):
            if isinstance(event, Saved):
                saved.append(event)
            elif isinstance(event, Failed):
                error = event.error
        return tuple(saved), _portable(error)


@contextmanager
def _counted(name: str) -> Iterator[int]:
    """Yields how often this has been begun before, in the whole cluster, and never ended."""
    from ray.experimental import internal_kv

    # Ray Data does a row again without end, and does not say that it does.
    begun = internal_kv._internal_kv_get(name)
    times = 0 if begun is None else int(begun)
    internal_kv._internal_kv_put(name, str(times + 1), overwrite=True)
    yield times
    internal_kv._internal_kv_del(name)


def _given_up(job: Job) -> Outcome:
    times = f"{_MOST_DEATHS} times"
    complaint = f"its worker was killed {times}, perhaps for want of memory; allow more"
    return (), BidiffsrError(f"{shown(job.source)}: {complaint}")


def _portable(error: Exception | None) -> Exception | None:
    """An error that another process can read, with its traceback where it may be a bug."""
    if error is None:
        return None
    if not isinstance(error, BidiffsrError):
        error.add_note("In a worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _headers(pictures: Sequence[Path], max_pixels: int, folder: Path) -> list[Header | None]:
    """What the files say of their pictures; None of those that cannot be read."""
    _enter(folder)
    found: list[Header | None] = []
    for picture in pictures:
        header = None
        with suppress(BidiffsrError):
            header = storage_of(picture).read_header(picture, max_pixels=max_pixels)
        found.append(header)
    return found


def _enter(folder: Path) -> None:
    """Have relative paths mean the same as where the batch was started."""
    with suppress(OSError):  # on this machine there may be none, and no need of it
        os.chdir(folder)


def _check_threads(threads: int) -> None:
    most = _most("CPU", threads)
    if most < threads:
        raise OptionError(
            "threads", f"got {threads}, expected at most {most}, as no machine has more CPUs"
        )


def _most(resource: str, wanted: int) -> int:
    """So much of a resource, or what the machine has that has the most of it.

    More would be waited for without end. Where no machine has any, Ray has yet to start some.
    """
    import ray

    found = [node["Resources"].get(resource, 0) for node in ray.nodes() if node["Alive"]]
    return min(wanted, int(max(found, default=0)) or wanted)


@contextmanager
def _connected(address: str, cpus: int) -> Iterator[None]:
    """Be part of a cluster, without a word of Ray's own."""
    import ray

    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    own = {"num_cpus": cpus, "object_store_memory": _OBJECT_BYTES, "include_dashboard": False}
    try:
        with _stderr_discarded(), _sigterm_kept():
            ray.init(
                address,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                **(own if address == LOCAL else {}),
            )
    except Exception as error:  # Ray raises all kinds
        why = " ".join(str(error).split())
        raise OptionError(
            "ray", f"got {address}, where no cluster can be reached ({why[:200]})"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _stderr_discarded() -> Iterator[None]:
    """For what is written to standard error by others than Python."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Whoever handles SIGTERM goes on doing so."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
