"""Worker processes that may hang or crash: then one task has failed, and the others go on."""

import multiprocessing
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from minisora.errors import InputError, check_counts, check_numbers

STARTING = 120.0  # seconds that a process may take to start
Work = Callable[..., Any]  # (task, say, *arguments) -> result; `say(name=value)` shows progress


class Done(NamedTuple):
    """A task with its result, or with the reason why it has none; and what was last said of it."""

    task: Any
    result: Any
    why: str
    said: dict[str, Any]


class Worker:
    """A process that does one task after the other."""

    def __init__(self, work: Work, arguments: tuple) -> None:
        context = multiprocessing.get_context("spawn")  # alike on every system
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, work, arguments), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends when the process does
        self.is_ready = False

    def give(self, task: Any) -> None:
        self.task, self.heard = task, time.monotonic()
        self.said: dict[str, Any] = {}
        with suppress(OSError):  # if it has died, `hear` tells
            self.pipe.send(task)

    def hear(self) -> Done | None:
        """Takes a message, and returns the task if it has ended. Raises InputError with the
        process's own."""
        try:
            kind, content = self.pipe.recv()
        except (EOFError, OSError):
            return self.fail("crash")
        self.heard, self.is_ready = time.monotonic(), True
        if kind == "stop":
            raise InputError(content)
        if kind == "result":
            return Done(self.task, content, "", self.said)
        self.said |= content
        return None

    def fail(self, why: str) -> Done:
        if not self.is_ready:
            raise InputError(
                "the worker processes do not start: a script that uses them needs "
                'an `if __name__ == "__main__":`'
            )
        return Done(self.task, None, why, self.said)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Crew:
    """`count` workers. One that dies, or says nothing for `patience` seconds, is replaced."""

    def __init__(self, count: int, patience: float, work: Work, *arguments: Any) -> None:
        check_counts(1, 256, workers=count)
        check_numbers(0.1, 86_400, patience=patience)
        self.count, self.patience, self.work, self.arguments = count, patience, work, arguments
        self.idle: list[Worker] = []
        self.busy: list[Worker] = []

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self.idle, *self.busy]:
            worker.stop()

    def run(self, tasks: Iterable[Any]) -> Iterator[list[Done]]:
        """The tasks that have ended, again and again, a second apart or less; at last all."""
        todo = list(tasks)[::-1]
        while todo or self.busy:
            while todo and len(self.busy) < self.count:
                worker = self.idle.pop() if self.idle else Worker(self.work, self.arguments)
                self.busy.append(worker)
                worker.give(todo.pop())
            yield list(self.ended())

    def ended(self) -> Iterator[Done]:
        speaking = wait([worker.pipe for worker in self.busy], timeout=1)
        for worker in list(self.busy):
            done = worker.hear() if worker.pipe in speaking else self.late(worker)
            if done:
                self.busy.remove(worker)
                if done.why:
                    worker.stop()
                else:
                    self.idle.append(worker)
                yield done

    def late(self, worker: Worker) -> Done | None:
        patience = self.patience if worker.is_ready else max(self.patience, STARTING)
        return worker.fail("hang") if time.monotonic() - worker.heard > patience else None


def serve(pipe: Connection, work: Work, arguments: tuple) -> None:
    """The process of a worker. It ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    warnings.simplefilter("ignore")  # results say what matters

    def tell(kind: str, content: Any) -> None:
        try:
            pipe.send((kind, content))
        except OSError:
            sys.exit()

    tell("said", {})
    with suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            try:
                tell("result", work(task, lambda **said: tell("said", said), *arguments))
            except InputError as error:
                tell("stop", str(error))
