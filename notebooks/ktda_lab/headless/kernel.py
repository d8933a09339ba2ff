"""A notebook kernel of this very interpreter, which never outlives the process that started it.

papermill takes whatever kernel is registered as ``python3``: another environment's, on many machines. And a
kernel lives in a session of its own, so that a signal to its starter does not reach it.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator

from ktda.runs.record import handling


@contextlib.contextmanager
def own_kernel() -> Iterator[type]:
    """A kernel manager class for nbclient; on leaving the block, its kernel and that one's children are dead.

    SIGINT and SIGTERM kill the kernel: the running cell fails as with any dead kernel, which gives the block
    the time to keep what there is; what the signal would have done follows on leaving. After SIGKILL the
    kernel's own watch over its parent ends it. For the main thread, which alone may set handlers.

    Raises:
        KeyboardInterrupt, SystemExit: On leaving, after SIGINT or SIGTERM.
    """
    from jupyter_client import AsyncKernelClient, AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    scratch = tempfile.mkdtemp(prefix="ktda-")  # no home folder is needed, no IPython start-up file changes a run
    groups: list[int] = []
    signals: list[int] = []

    def kill() -> None:
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)

    class OwnInterpreter(AsyncKernelManager):
        kernel_spec = KernelSpec(
            argv=[sys.executable, "-m", "ktda_lab.headless.launch", "-f", "{connection_file}"],
            language="python",
            # Servers often set Agg, with which no figure would reach the executed notebook.
            env={"IPYTHONDIR": f"{scratch}/ipython", "MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        )

        def __init__(self, **kwargs) -> None:
            super().__init__(**kwargs)
            self.connection_file = f"{scratch}/kernel.json"
            if len(scratch) < 90:  # a Unix socket's path may hold about 100 bytes
                self.transport, self.ip = "ipc", f"{scratch}/s"

        def client(self, **kwargs) -> AsyncKernelClient:
            client = super().client(**kwargs)
            client.context.rcvhwm = 0  # by default a chatty cell loses lines, or the message that it has ended
            return client

        async def start_kernel(self, **kwargs) -> None:
            await super().start_kernel(**kwargs)
            groups.append(self.provisioner.pid)
            if signals:
                kill()

    def stop(number: int, frame: object) -> None:
        signals.append(number)
        kill()

    try:
        with handling(stop, signal.SIGINT, signal.SIGTERM):
            try:
                yield OwnInterpreter
            finally:
                kill()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if signals:
            raise KeyboardInterrupt if signals[0] == signal.SIGINT else SystemExit(128 + signals[0])
