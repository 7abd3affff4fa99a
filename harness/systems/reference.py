"""The reference programs in their roles: which module to start, and with which options."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.playbook.engine import Launch, Seat

STREAM = "live/cam1"
KEY = "secret"
PUSH_KEY = "live/out1"

_PUBLISH_URL = f"rtmp://gateway.test/{STREAM}?key={KEY}"
_PLAY_URL = f"rtmp://gateway.test/{STREAM}"
_PUSH_URL = f"rtmp://platform.test/{PUSH_KEY}"


def _publisher(seat: Seat) -> dict[str, str]:
    return {"url": _PUBLISH_URL, "seed": str(seat.seed)}


def _gateway(seat: Seat) -> dict[str, str]:
    state = seat.run_dir / "state" / seat.role
    return {"stream": f"{STREAM}={KEY}", "egress": _PUSH_URL, "state": str(state)}


def _viewer(seat: Seat) -> dict[str, str]:
    pictures = seat.run_dir / "pictures" / seat.role
    return {"url": _PLAY_URL, "pictures": str(pictures), "seed": str(seat.seed)}


def _destination(seat: Seat) -> dict[str, str]:
    return {"key": PUSH_KEY, "pictures": str(seat.run_dir / "pictures" / seat.role)}


_MODULES: Mapping[str, str] = {
    "publisher": "reference_impl.client.publish",
    "gateway": "reference_impl.gateway.serve",
    "viewer": "reference_impl.client.watch",
    "viewer2": "reference_impl.client.watch",
    "destination": "reference_impl.destination.serve",
}
_OPTIONS: Mapping[str, Callable[[Seat], dict[str, str]]] = {
    "publisher": _publisher,
    "gateway": _gateway,
    "viewer": _viewer,
    "viewer2": _viewer,
    "destination": _destination,
}
ROLES: Sequence[str] = tuple(_MODULES)


@dataclass(frozen=True, slots=True)
class ReferenceSystem:
    """One role's reference program, or a variant of it that another module starts."""

    role: str
    name: str = "reference"
    module: str = ""

    def launch(self, seat: Seat) -> Launch:
        """The program's command line; options of the playbook replace those of the role."""
        if importlib.util.find_spec("av") is None:
            raise HarnessError(
                f"the reference {self.role} needs PyAV, which is not installed", cure="pip install 'deadair[media]'"
            )
        module = self.module or _MODULES[self.role]
        options = {**_OPTIONS[self.role](seat), **seat.options}
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        return Launch(program=module, argv=[sys.executable, "-m", module, *arguments], env={})
