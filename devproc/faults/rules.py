"""The rules of one device: given, met, counted, listed, taken away. In the page as soon as there is one."""

from __future__ import annotations

from collections.abc import Iterator

from devproc.faults.declared import Declared
from devproc.faults.kept import FULL, Row, Table
from devproc.faults.rule import Place, Rule
from devproc.faults.words import parse, said
from protocol.errors import BusvmError, ConfigError, NotFound


class Active:
    """A rule that is in force."""

    def __init__(self, number: int, rule: Rule, text: str, *, started: bool) -> None:
        self.id = number
        self.rule = rule
        self.text = text
        self.started = started
        """Whether it came by the command line."""
        self.seen = 0
        self.hits = 0
        self.row: Row | None = None

    def met(self) -> bool:
        """Count an occasion; return whether the fault strikes."""
        self.seen += 1
        struck = self.rule.strikes(self.seen, self.hits)
        self.hits += struck
        if self.row is not None:
            self.row.count(self.seen, self.hits)  # before it is done, which may be the end of the process
        return struck


class Rules:
    """All of them; owned by the device loop, but ``all`` may be looked at from any thread."""

    def __init__(self, declared: Declared) -> None:
        self.declared = declared
        self.all: tuple[Active, ...] = ()
        self._last = 0
        self._table: Table | None = None

    def at(self, place: Place) -> Iterator[Active]:
        """Return the rules about a place, in the order of their numbers."""
        return (active for active in self.all if active.rule.place is place)

    def add(self, text: str, *, started: bool = False) -> Active:
        """Put a rule into force.

        Raises:
            ConfigError: it is none, or there are too many.
        """
        rule = parse(text, self.declared)
        if len(self.all) >= FULL:
            raise ConfigError(f"there are {FULL} rules already", hint="clear, or remove ID")
        self._last += 1
        active = Active(self._last, rule, said(rule, self.declared), started=started)
        self._keep(active)
        self.all = (*self.all, active)
        return active

    def _keep(self, active: Active) -> None:
        table = self._table
        if table is None:
            return
        table.begin()
        table.last_id = self._last
        row = table.free() or self._forgotten(table)
        if row is not None:
            row.fill(active.id, active.text, started=active.started)
            row.count(active.seen, active.hits)
        active.row = row

    @staticmethod
    def _forgotten(table: Table) -> Row | None:
        """Return the row of a rule that was removed, for another."""
        row = next((row for row in table.rows() if row.removed), None)
        if row is not None:
            row.number = 0
        return row

    def remove(self, number: int) -> None:
        """Take a rule away.

        Raises:
            NotFound: there is none of that number.
        """
        found = next((active for active in self.all if active.id == number), None)
        if found is None:
            known = ", ".join(str(active.id) for active in self.all)
            raise NotFound(f"no rule {number}", hint=f"there is {known}" if known else "there is none")
        self.all = tuple(active for active in self.all if active is not found)
        if found.row is None:
            return
        if found.started:
            found.row.set_started(removed=True)
        else:
            found.row.number = 0

    def keep_in(self, table: Table) -> None:
        """Go on from the table of a page: with what a predecessor left, and with what this process was started with."""
        own, self.all, self._table = self.all, (), table
        found: dict[str, Row] = {}
        given = table.last_id if table.in_use else 0
        if table.in_use:
            self._last = max(self._last, given)
            for row in table.rows():
                if row.started:
                    found[row.text] = row
                if not row.removed:
                    self._resume(row)
        for active in own:
            if active.text in found:
                continue  # a predecessor has begun it
            if active.id <= given:
                self._last += 1
                active.id = self._last
            self._keep(active)
            self.all = (*self.all, active)

    def _resume(self, row: Row) -> None:
        try:
            rule = parse(row.text, self.declared)
        except BusvmError:
            row.number = 0  # of another build, to which it says nothing
            return
        active = Active(row.number, rule, row.text, started=row.started)
        active.seen, active.hits, active.row = row.seen, row.hits, row
        self.all = (*self.all, active)

    def leave(self) -> None:
        """Let go of the page: it is unmapped next."""
        self._table = None
        for active in self.all:
            active.row = None
