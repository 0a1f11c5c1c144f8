"""NVML in a process of its own: ``python -m agent.sources.nvml_child FD``.

It is asked on standard input, one line a look, ``{"now": …, "skip": […], "late": […], "costly": …}``, and answers as
it goes, so that a call that never returns costs one card: ``X {"UUID": [48]}`` what the driver told of cards since
the last look, ``C 0`` before it touches card 0, ``R {…}`` a reading,
``F 0 why`` a card that cannot be read, ``N why`` when there is no driver, ``D`` at the end. In the shared word behind
FD stands the call that it is in.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from collections.abc import Collection, Iterator
from typing import Any

import pynvml

from agent.sources import Reading, sane
from agent.sources import nvml_calls as calls
from agent.sources.call_slot import CallSlot
from agent.sources.codec import to_line
from agent.sources.nvml_card import Card, mig_devices
from agent.sources.nvml_events import XidWatch
from broker.calls import check_name

_NAMELESS = "NVIDIA GPU"
#: These say that every card's handle is void: close, and open again.
_ALL_VOID = (
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
)
#: These say that one card is gone. NVML may find it again only when it is opened anew, which costs: seldom.
_ONE_LOST = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
_REOPEN_SECONDS = 30.0
#: A count beyond it is no answer.
_MOST_CARDS = 1024
_PR_SET_PDEATHSIG = 1


class Reader:
    """The host's NVIDIA GPUs, as long as this process lives."""

    def __init__(self) -> None:
        """Nothing is opened before the first look."""
        self._open = False
        self._opened_at = 0.0
        self._stale = False
        self._cards: dict[str, Card] = {}
        self._xids = XidWatch()

    def look(self, now: float, skip: Collection[int], late: Collection[int], costly: bool) -> Iterator[str]:
        """Read every card but those to be skipped, the late ones last, and tell each at once."""
        try:
            self._ensure_open(now)
            calls.entering(pynvml.nvmlDeviceGetCount.__name__)
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            what = "NVML" if self._open else "no NVIDIA driver can be opened"
            self.close()
            yield f"N {what}: {error}"
            return
        if count > _MOST_CARDS:
            self.close()
            yield f"N NVML's answer makes no sense: {count} GPUs"
            return
        fallen = self._xids.drain()
        if fallen:
            yield f"X {json.dumps(fallen)}"  # at once: what follows may hang, or find a card gone
        wanted = [index for index in range(count) if index not in skip]
        for index in sorted(wanted, key=lambda index: (index in late, index)):
            yield f"C {index}"
            yield from self._card(index, now, costly)
        if self._stale:
            self.close()  # only now: the other cards were still to be read. The next look opens it anew
        yield "D"

    def _ensure_open(self, now: float) -> None:
        if not self._open:
            calls.entering(pynvml.nvmlInit.__name__)
            pynvml.nvmlInit()  # that this is not supported is an error, too
            self._open, self._stale, self._opened_at = True, False, now

    def _card(self, index: int, now: float, costly: bool) -> Iterator[str]:
        """The card at an index. Its identity is its UUID: an index may mean another card after one was lost."""
        uuid, name, why = "", _NAMELESS, ""
        try:
            handle = calls.query(pynvml.nvmlDeviceGetHandleByIndex, index)
            uuid = check_name("UUID", calls.query(pynvml.nvmlDeviceGetUUID, handle))
            name = calls.query(pynvml.nvmlDeviceGetName, handle) or name
            self._xids.register(handle, uuid)
            instances = mig_devices(handle)
            for instance, own, profile in instances:
                part = self._read(Card(instance, check_name("UUID", own), index, name, profile, handle), costly)
                yield _told(part)
            if instances:
                yield _told(Reading(uuid, index, name, fault="it is divided: its MIG instances are lent"))
            else:
                yield _told(self._read(Card(handle, uuid, index, name), costly))
        except pynvml.NVMLError as error:
            old = now - self._opened_at >= _REOPEN_SECONDS
            self._stale = self._stale or error.value in _ALL_VOID or (old and error.value in _ONE_LOST)
            why = f"NVML: {error}"
        except Exception as error:  # noqa: BLE001  an answer that makes no sense is this card's trouble alone
            why = f"NVML's answer makes no sense: {' '.join(str(error).split())}"
        if why:
            yield f"F {index} {why}"
            if uuid:  # it may be one that nobody has heard of yet
                yield _told(Reading(uuid, index, name, fault=why))

    def _read(self, card: Card, costly: bool) -> Reading:
        """What a card says now, and what it said before of what is asked seldom."""
        known = self._cards.setdefault(card.uuid, card)
        known.handle, known.index, known.name, known.mig, known.parent = (
            card.handle, card.index, card.name, card.mig, card.parent,
        )  # fmt: skip
        return sane(known.read(costly or known is card))

    def close(self) -> None:
        """Close NVML; a driver that is gone already cannot object."""
        if self._open:
            self._open = False
            self._cards.clear()  # their handles are void
            self._xids.close()
            try:
                calls.query(pynvml.nvmlShutdown)
            except pynvml.NVMLError:
                return


def _told(reading: Reading) -> str:
    return f"R {to_line(reading)}"


def main() -> None:
    """Answer until nobody asks any more, or whoever did is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    slot = CallSlot(int(sys.argv[1]))
    calls.entering = slot.enter
    reader = Reader()
    for line in sys.stdin:
        wish: dict[str, Any] = json.loads(line)
        for told in reader.look(wish["now"], wish["skip"], wish["late"], wish["costly"]):
            sys.stdout.write(told + "\n")
            sys.stdout.flush()
        slot.enter("nothing")
    reader.close()


if __name__ == "__main__":
    main()
