"""What a keeper and a job's process agree on."""

from __future__ import annotations

import signal

#: How a job hears that its lease is over. Ignored by a process that expects nothing, so it can harm nobody.
LOST_SIGNAL = signal.SIGURG
