"""What a job is asked for, as it is kept in the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from arrowquant._importance import Importance, is_auto, searching
from arrowquant._options import Options, check_settings
from arrowquant._plan import RULE_COLUMNS, check_patterns, read_plan, resolve, with_fallbacks
from arrowquant._scan.tied import follow_table

_KEPT = ("scheme", "settings", "everything")
_LATER: dict[str, Any] = {"fallback": None, "tensor_absmax": None, "chosen": ()}
"""What earlier versions did not know."""


@dataclass(frozen=True)
class Request:
    """The options of a job."""

    scheme: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    plan: Any = None
    """A table, in a file or in anything that speaks Arrow; a table once it is read."""
    keep: Sequence[str] = ()
    include: Sequence[str] = ()
    chosen: Sequence[str] = ()
    """What a runtime includes; as `include`, but that nobody has named these layers."""
    fallback: Sequence[str] | None = None
    everything: bool = False
    continue_on_error: bool = False
    retry_failed: bool = False
    overwrite: bool = False
    threads: int | None = None
    importance: Any = None
    """How much the columns of layers matter: a table in a file or in anything that speaks Arrow; or
    `auto`, until `_checkpoint.importance` has made one. `none` becomes None."""
    forgets_importance: bool = False
    """Whether a retry does without the table that the job began with."""
    usual_search: str | None = None
    """The search of what a runtime takes where nothing is said."""
    tensor_absmax: float | None = None
    """The largest magnitude that every layer is told, where a runtime has no tensor scales."""
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    """The schemes from which layers fall back that rules name; for who reads the plan."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.retry_failed and self.overwrite:
            raise ValueError("retry_failed and overwrite contradict each other. Give one of them.")
        if isinstance(self.importance, str) and self.importance == "none":
            object.__setattr__(self, "importance", None)
            object.__setattr__(self, "forgets_importance", True)
        if self.importance is not None:
            if not is_auto(self.importance):
                object.__setattr__(self, "importance", Importance.read(self.importance))
            if not self.retry_failed:
                settings = searching(
                    self.importance,
                    self.scheme,
                    self.settings,
                    self.plan,
                    usual=self.usual_search,
                )
                object.__setattr__(self, "settings", settings)
        check_patterns("keep", self.keep)
        check_patterns("include", self.include)
        self.options()

    def read(self) -> Request:
        """The request with its rules read."""
        table = read_plan(self.plan)
        if table is None:
            return self
        names = [name for name in RULE_COLUMNS if name in table.schema.names]
        return replace(self, plan=table.select(names))

    def options(self) -> Options:
        """The options of the kernel's call."""
        return Options(
            self.scheme,
            self.settings,
            self.threads,
            self.continue_on_error,
            importance=None if is_auto(self.importance) else self.importance,
            fallback=self.fallback,
        )

    def resolve(self, outline: pa.Table, source: Any = None) -> pa.Table:
        """The plan of a source's rows without their data."""
        plan = resolve(
            outline,
            self.options(),
            self.keep,
            self.plan,
            include=[*self.include, *self.chosen],
            everything=self.everything,
        )
        plan = with_fallbacks(plan, self.fallbacks)
        return follow_table(plan, source, [*self.keep, *self.include, *self._ruled()])

    def _ruled(self) -> list[str]:
        """The patterns of the rules."""
        rules = read_plan(self.plan)
        names = [] if rules is None else rules["layer_name"].to_pylist()
        return [name for name in names if name is not None]

    @property
    def says_search(self) -> bool:
        """Whether anything is said of how scales are chosen."""
        rules = read_plan(self.plan)
        named = rules is not None and "search" in rules.schema.names
        return named or self.importance is not None or self.settings.get("search") is not None

    @property
    def asks_anew(self) -> bool:
        """Whether anything is said of how layers are quantized."""
        said = (check_settings(self.settings), self.keep, self.include)
        return self.scheme is not None or self.plan is not None or any(map(bool, said))

    def over(self, original: Request) -> Request:
        """A retry's request: what it does not say is as it was, for layers that are quantized."""
        scheme = original.scheme if self.scheme is None else self.scheme
        said = check_settings(self.settings)
        # Another scheme may lack what was set for the one before.
        before = {} if self.scheme is not None else dict(original.settings)
        importance = None if self.forgets_importance else original.importance
        if self.importance is not None:
            # A table that is given now is for a search of now.
            before.pop("search", None)
            said = dict(searching(self.importance, scheme, said, self.plan))
            importance = self.importance
        settings = {**before, **said}
        return replace(
            self, scheme=scheme, settings=settings, importance=importance, everything=True
        )

    def to_json(self) -> dict[str, Any]:
        """What of it decides bytes."""
        rules = None if self.plan is None else self.plan.to_pylist()
        said = {name: getattr(self, name) for name in _KEPT}
        said["settings"] = check_settings(self.settings)
        said["fallback"] = None if self.fallback is None else list(self.fallback)
        said |= {"tensor_absmax": self.tensor_absmax, "chosen": list(self.chosen)}
        said["importance"] = None if self.importance is None else self.importance.digest
        return said | {"keep": list(self.keep), "include": list(self.include), "rules": rules}

    def with_original(self, said: dict[str, Any], importance: Importance | None) -> Request:
        """This job's request with what decided the bytes of the one that began."""
        rules = None if said["rules"] is None else pa.Table.from_pylist(said["rules"])
        kept = {name: said[name] for name in _KEPT}
        kept |= {name: said.get(name, default) for name, default in _LATER.items()}
        keep, include = (tuple(said.get(name, ())) for name in ("keep", "include"))
        return replace(self, **kept, keep=keep, include=include, plan=rules, importance=importance)
