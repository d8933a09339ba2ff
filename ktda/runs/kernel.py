"""A notebook kernel of this very interpreter, which never outlives the process that started it.

papermill takes whatever kernel is registered as ``python3``: another environment's, on many machines. And a
kernel lives in a session of its own, so that a signal to its starter does not reach it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

# A Unix socket's path may hold 107 bytes; what is appended to the folder takes about ten.
_SOCKET_FOLDER_LENGTH = 90


class KernelProcess:
    """The running kernel's process group, and the signal that asked for its end, if one did."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.signum: int | None = None

    def kill(self) -> None:
        """End the kernel and the processes it started in its group; harmless where none is left."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def raise_if_signalled(self) -> None:
        """Go on with what the signal would have done: KeyboardInterrupt, or exit with 128 + its number."""
        if self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signum is not None:
            raise SystemExit(128 + self.signum)


def kernel_manager_class(process: KernelProcess, scratch: Path) -> type:
    """A kernel manager for nbclient that starts ``sys.executable`` and notes the process.

    Args:
        process: Told the kernel's process id.
        scratch: A private folder for the connection file, the sockets and IPython's own files, so that no
            home folder is needed and a reader's IPython start-up files do not change a run. Sockets in it
            cannot be taken by another kernel starting at the same time, as free TCP ports can.
    """
    from jupyter_client import AsyncKernelClient, AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class OwnInterpreter(AsyncKernelManager):
        def __init__(self, **kwargs) -> None:
            super().__init__(**kwargs)
            self.connection_file = str(scratch / "kernel.json")
            if os.name == "posix" and len(os.fsencode(scratch)) < _SOCKET_FOLDER_LENGTH:
                self.transport, self.ip = "ipc", str(scratch / "s")

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                display_name="Python 3",
                language="python",
                env={
                    "IPYTHONDIR": str(scratch / "ipython"),
                    "JUPYTER_CONFIG_DIR": str(scratch / "config"),
                    "JUPYTER_RUNTIME_DIR": str(scratch),
                    # Servers often set Agg, with which no figure would reach the executed notebook.
                    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
                },
            )

        def client(self, **kwargs) -> AsyncKernelClient:
            # zmq drops what a subscriber is 1000 messages behind with: a chatty cell would lose lines, or the
            # message that says it has ended.
            client = super().client(**kwargs)
            client.context.rcvhwm = 0
            return client

        async def start_kernel(self, **kwargs) -> None:
            await super().start_kernel(**kwargs)
            process.pid = self.provisioner.pid

    return OwnInterpreter


@contextlib.contextmanager
def ends_with_us(process: KernelProcess) -> Iterator[None]:
    """Within this block a signal that would end us ends the kernel first; on leaving it is dead in any case.

    The running cell then fails as with any dead kernel, which gives the caller the time to keep what there
    is; `KernelProcess.raise_if_signalled` carries on with the signal. A second signal does not wait.
    Handlers can only be set in the main thread; elsewhere, and for SIGKILL, the kernel's own watch over its
    parent ends it within a second or two.
    """

    def handle(signum: int, frame: object) -> None:
        waiting = process.pid is not None and process.signum is None
        process.signum = signum
        process.kill()
        if not waiting:
            process.raise_if_signalled()

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            signum = getattr(signal, name, None)
            if signum is not None and signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler):
                previous[signum] = signal.signal(signum, handle)
    try:
        yield
    finally:
        process.kill()
        for signum, handler in previous.items():
            signal.signal(signum, handler)
