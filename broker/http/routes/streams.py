"""Server-sent events: the journal, resumable, and what the page shows, as it changes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header, Query
from starlette.responses import Response

from broker.http.frames import EventStream
from broker.http.routes import LOOKING, problems, router
from broker.http.serving import Asking, Parts, viewer
from broker.http.tail import follow, resume

routes = router("streams")

_TEXT = {"type": "string"}
#: Of each event.
_EVENT = {"type": "object", "properties": {"id": _TEXT, "event": _TEXT, "data": _TEXT}, "required": ["event", "data"]}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events", "content": {"text/event-stream": {"schema": _EVENT}}}
}
_ID = r"^[0-9]{1,19}(-[0-9]{1,19})?$"


@routes.get(
    "/api/events", response_class=Response, dependencies=[Depends(viewer)],
    responses=_STREAM | problems(*LOOKING), summary="The journal, as it is written",
)  # fmt: skip
async def events(
    parts: Parts,
    asks: Asking,
    after: Annotated[str | None, Query(pattern=_ID, description="An event's id; 0 is the journal's begin.")] = None,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", pattern=_ID, description="The id that was had last.")
    ] = None,
) -> Response:
    """Each event with its id, kind and fields; without an id from now on. Whoever names the last id that he had
    (``Last-Event-ID`` wins over ``after``) misses none, and is told by an event ``gap`` where some are not kept any
    more. A comment comes every 15 seconds of silence."""
    begin = await parts.broker.run(resume(parts.broker.keys, last_event_id or after or ""))
    return EventStream(follow(parts.tail, begin), parts.streams.seat(asks.key), parts.closing)


@routes.get(
    "/api/live", response_class=Response, dependencies=[Depends(viewer)],
    responses=_STREAM | problems(*LOOKING), summary="The pool, as it changes",
)  # fmt: skip
async def live(parts: Parts, asks: Asking) -> Response:
    """First ``snapshot``, all hosts, cards, leases and waiters; then once a second ``delta``, the fields that changed
    and what is gone; ``journal`` with each event; ``away`` when the ledger cannot be reached, and then a ``snapshot``
    when it is back."""
    await parts.reader.current()
    return EventStream(parts.live.follow(), parts.streams.seat(asks.key), parts.closing)
