"""Something to do once a module stands, if it is ever imported: nothing is imported for it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Act = Callable[[Any], None]


def when_imported(name: str, act: Act) -> None:
    """Call ``act`` with the top-level module of that name: now if it is imported already, else right after it is.

    A later call for the same module takes the place of one that still waits. An ``act`` that raises is warned of: the
    import it hangs on is not ours to break.
    """
    module = sys.modules.get(name)
    if module is not None:
        _carry_out(name, act, module)
        return
    _WAITING.acts[name] = act
    if _WAITING not in sys.meta_path:
        sys.meta_path.insert(0, _WAITING)


def _carry_out(name: str, act: Act, module: ModuleType) -> None:
    try:
        act(module)
    except Exception as error:  # noqa: BLE001 - whatever another version of it raises
        warnings.warn(f"gpubroker could not cap {name}: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)


class _Waiting(MetaPathFinder):
    """Stands before the finders that find the modules, until all that it waits for are imported."""

    def __init__(self) -> None:
        self.acts: dict[str, Act] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec. Many only look whether a module is there, so this alone ends nothing."""
        if fullname not in self.acts:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            found: ModuleSpec | None = find(fullname, path, target) if find is not None else None
            if found is not None:
                if found.loader is not None:
                    found.loader = _ThenAct(found.loader, fullname)
                return found
        return None

    def act(self, name: str, module: ModuleType) -> None:
        """It stands."""
        act = self.acts.pop(name, None)
        if not self.acts and self in sys.meta_path:
            sys.meta_path.remove(self)
        if act is not None:
            _carry_out(name, act, module)


_WAITING = _Waiting()


class _ThenAct(Loader):
    """A module's own loader, and what is to be done once the module stands."""

    def __init__(self, loader: Loader, name: str) -> None:
        self._loader, self._name = loader, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module's own loader from here on: what others ask of its spec is not ours to answer.
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _WAITING.act(self._name, module)
