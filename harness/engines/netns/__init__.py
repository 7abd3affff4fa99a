"""Real processes with real kernel TCP/IP on an emulated network, without root where user namespaces are allowed."""

from harness.engines.netns.lab import Lab
from harness.engines.netns.process import NodeProcess

__all__ = ["Lab", "NodeProcess"]
