"""The reference gateway with a thread that waits for work for ever: told to stop, it does everything but end.

Everything has been given back and "stopped" has been said, but the interpreter waits for the thread: only SIGKILL ends
the process. A service manager shows it as a stop that runs into its time-out.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from reference_impl.gateway.serve import main as serve

DEFECT = "never finishes its shutdown, so that it has to be killed"
ROLE = "gateway"
CAUGHT_BY = "hotspot/backhaul_blip_400ms"
CLAIM = "stopped_in_order"


def main(argv: Sequence[str] | None = None) -> int:
    """The gateway with the thread that nobody ends."""
    threading.Thread(target=threading.Event().wait, name="waits for ever", daemon=False).start()
    return serve(argv)


if __name__ == "__main__":
    raise SystemExit(main())
