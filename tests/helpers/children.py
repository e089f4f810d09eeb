"""Command lines in child processes that die at a chosen moment, quick to start.

Children are forked from a server that has imported everything, so that many can be killed.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

MODULES = [
    "torch",
    "torchvision",
    "poisonbench.cli.main",
    "poisonbench.runs.defend",
    "helpers.children",
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(MODULES)


def run(words, die_at, every=60.0):
    """How a command line ended that is killed at its n-th moment, if it gets there.

    Moments are the halves of every write and before and after whatever makes a file appear.

    Args:
        words: the command line.
        die_at: which moment, from 1.
        every: seconds between checkpoints.

    Returns:
        The exit code, negative for a signal.
    """
    child = _context.Process(target=_run, args=([str(word) for word in words], die_at, every))
    child.start()
    return finish(child, 120)


def finish(child, seconds=600):
    """Its exit code."""
    child.join(seconds)
    code = child.exitcode
    child.kill()
    child.join()
    child.close()
    return code


def _run(words, die_at, every):
    import torch

    from poisonbench.cli.main import main
    from poisonbench.training.checkpoint import Checkpoint

    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    moments = iter(range(1, sys.maxsize))

    def moment():
        if next(moments) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def framed(function):
        def call(*args, **kwargs):
            moment()
            result = function(*args, **kwargs)
            moment()
            return result

        return call

    def halved(descriptor, mode):
        stream = fdopen(descriptor, mode)
        write = stream.write

        class Halves:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                stream.close()

            def __getattr__(self, name):
                return getattr(stream, name)

            def write(self, data):
                write(data[: len(data) // 2])
                stream.flush()
                moment()
                write(data[len(data) // 2 :])

        return Halves()

    fdopen = os.fdopen
    os.fdopen = halved
    os.replace = framed(os.replace)
    Path.rename = framed(Path.rename)
    Checkpoint.__init__.__defaults__ = (every,)
    Checkpoint.discard = framed(Checkpoint.discard)
    os._exit(main(words))
