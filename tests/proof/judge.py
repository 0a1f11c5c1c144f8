"""What each command of the ledger must answer, and what it must have done, by the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.proof.agents import Agents
from tests.proof.callers import Callers
from tests.proof.records import Tenant
from tests.proof.step import Step


class Judge(Callers, Agents):
    """Takes each script into the model, or says which law it broke."""

    def judge(self, step: Step) -> None:
        """Take one script.

        Raises:
            Unlawful: a law was broken.
        """
        self.step, self.ask, self.served = step, None, False
        _COMMANDS[step.name](self, *step.argv)

    def drain(self, kind: str, name: str) -> None:
        """Marks a card or host."""
        self._mark(kind, name, True)

    def undrain(self, kind: str, name: str) -> None:
        """Lifts the mark."""
        self._mark(kind, name, False)

    def _mark(self, kind: str, name: str, on: bool) -> None:
        m = self.model
        if name not in (m.cards if kind == "gpu" else m.hosts):
            return self.answer("unknown")
        self.begin()
        host = m.hosts.get(name)
        marked = host.drained if host and kind == "host" else kind == "gpu" and "gpu" in m.cards[name].drained_by
        if marked != on:
            cards = [name] if kind == "gpu" else [u for u in m.hosts[name].gpus if u in m.cards]
            for uuid in cards:
                card = m.cards[uuid]
                if kind == "gpu" or card.host == name:
                    (card.drained_by.add if on else card.drained_by.discard)(kind)
                    m.forget_if_left(uuid)
            if host and kind == "host":
                host.drained = on
                if not on:
                    m.forget_host_if_left(name)
        self.follow()
        self.answer("drained" if on else "undrained")
        return self.finish()

    def reap(self) -> None:
        """Ends what is over and serves."""
        self.begin()
        self.follow()
        self.answer(self.model.now)
        self.finish()

    def tenant(self, name: str, quota: int | str, weight: int | str) -> None:
        """Quota and weight."""
        m = self.model
        self.begin()
        tenant: Tenant = m.bring_usage_to_now(name)
        tenant.quota = int(quota) if quota != "" else tenant.quota
        tenant.weight = int(weight) if weight != "" else tenant.weight
        self.follow()
        self.answer("ok")
        self.finish()

    def configure(self, version: str | int, *pairs: str | int) -> None:
        """The pool's configuration."""
        m = self.model
        if int(version) != m.version:
            return self.answer("changed")
        self.begin()
        m.version += 1
        m.config = dict(zip(map(str, pairs[::2]), map(str, pairs[1::2]), strict=True))
        silence = int(max(10_000, 3 * m.setting_ms("monitor_interval", 3)))
        m.clock = replace(m.clock, silence_ms=silence, grace_ms=m.setting_ms("grace_seconds", 15))
        self.follow()
        return self.answer(m.version)


_COMMANDS: dict[str, Callable[..., None]] = {
    name: getattr(Judge, name)
    for name in (
        "acquire", "renew", "start", "release", "cancel", "resize", "revoke", "drain", "undrain", "reap", "tenant",
        "configure", "hello", "publish_sample", "leave", "adopt", "register",
    )
}  # fmt: skip
