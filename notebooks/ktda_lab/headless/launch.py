"""The kernel of a headless run: ``python -m ktda_lab.headless.launch -f CONNECTION_FILE``.

It is ipykernel's own, but for one thing: what a cell prints is never dropped. By default the socket that publishes
output drops whatever a listener has not read once 1,000 messages wait, which a busy machine reaches in any chatty cell.
"""

import sys
from pathlib import Path


def main() -> None:
    from ipykernel.kernelapp import IPKernelApp

    class LosslessKernelApp(IPKernelApp):
        """Lets as many messages wait as memory holds."""

        def init_iopub(self, context) -> None:
            context.sndhwm = 0  # zmq's word for no limit; counts for sockets that are made from here on
            super().init_iopub(context)

    LosslessKernelApp.launch_instance()


if __name__ == "__main__":
    # As in ipykernel_launcher: while the kernel loads, no file of the working directory may stand in for a library.
    # IPython then puts "" in front, so that cells import from there.
    if sys.path[0] == "" or Path(sys.path[0]) == Path.cwd():
        del sys.path[0]
    main()
