"""Rules as text: ``error queue=0 type=OUT nth=3``. What is wrong is named, with the nearest word that is right."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from devproc.faults.declared import Declared
from devproc.faults.rule import COMPARISONS, WIRE, Condition, Kind, Place, Rule
from protocol.errors import ConfigError

LONGEST = 200
_WORD = re.compile(r"([a-z_][a-z0-9_]*)(?:(!=|<=|>=|=|<|>)(.*))?", re.IGNORECASE)

# what a rule of a kind may be about, and what else it may say
_PLACES: dict[Kind, tuple[Place, ...]] = {
    Kind.ERROR: (Place.REQUEST,),
    Kind.CORRUPT: (Place.REQUEST, Place.READ, Place.WRITE),
}
_PARTS: dict[str, tuple[Kind, ...]] = {
    "ms": (Kind.DELAY, Kind.FREEZE),
    "status": (Kind.ERROR,),
    "bits": (Kind.CORRUPT,),
    "bytes": (Kind.CORRUPT,),
    "of": (Kind.CORRUPT,),
    "at": (Kind.FREEZE, Kind.KILL),
}
_WHICH = ("nth", "every", "first", "probability", "seed", "count", "once")
_SELECT = ("request", "queue", "where", "read", "write", "interrupt", "doorbell")


def wrong(word: str, what: str, known: Iterable[str]) -> ConfigError:
    """Return the error that names a word and the nearest right one."""
    names = list(known)
    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    if near:
        return ConfigError(f"no {what} {word!r}", hint=f"did you mean {lower[near[0]]}?")
    return ConfigError(f"no {what} {word!r}", hint=f"there is {', '.join(names)}" if names else "there is none")


def parse(text: str, declared: Declared) -> Rule:
    """Return the rule that ``text`` says.

    Raises:
        ConfigError: it says none that this device can have.
    """
    words = text.split()
    if not words:
        raise ConfigError("an empty rule", hint=f"it begins with {', '.join(Kind)}")
    if words[0] not in list(Kind):
        raise wrong(words[0], "kind of fault", Kind)
    rule = Rule(Kind(words[0]))
    given: set[str] = set()
    for word in words[1:]:
        rule = _with(rule, word, declared, given)
    rule = _checked(rule, declared, given)
    if len(said(rule, declared)) > LONGEST:
        raise ConfigError(f"a rule of more than {LONGEST} characters")
    return rule


def _with(rule: Rule, word: str, declared: Declared, given: set[str]) -> Rule:
    found = _WORD.fullmatch(word)
    if found is None:
        raise ConfigError(f"{word!r} is no part of a rule", hint="NAME=VALUE, or type=OUT,sector>=8 after where=")
    name, comparison, value = found[1], found[2] or "", found[3] or ""
    if name in declared.fields and name not in _READ:
        given.add("where")
        return replace(rule, where=(*rule.where, _condition(word, declared)))
    if name not in _READ:
        raise wrong(name, "word", (*_SELECT, *_WHICH, *_parts(rule.kind), *declared.fields))
    if name in given and name != "where":
        raise ConfigError(f"{name} is there twice")
    if comparison not in ("", "="):
        raise ConfigError(f"{word}: {name} is compared with = alone")
    if name in _PARTS and rule.kind not in _PARTS[name]:
        kinds = " and ".join(_PARTS[name])
        raise ConfigError(f"{name} is of no meaning to {rule.kind}", hint=f"it belongs to {kinds}")
    given.add(name)
    return _READ[name](rule, value, declared)


def _parts(kind: Kind) -> list[str]:
    return [name for name, kinds in _PARTS.items() if kind in kinds]


def _checked(rule: Rule, declared: Declared, given: set[str]) -> Rule:
    """Return the rule with what follows from its kind, if it makes sense as a whole."""
    places = [name for name in ("read", "write", "interrupt", "doorbell") if name in given]
    requests = [name for name in ("request", "queue", "where") if name in given]
    if len(places) + bool(requests) > 1:
        raise ConfigError(f"{', '.join([*requests, *places])}: a rule is about one of them")
    allowed = _PLACES.get(rule.kind, tuple(Place))
    if rule.place not in allowed:
        hint = "drop makes a read find all ones" if rule.place is Place.READ else f"it is of {', '.join(allowed)}"
        raise ConfigError(f"{rule.kind} is of no meaning to {rule.place}", hint=hint)
    if rule.place is Place.REQUEST and not declared.queues:
        raise ConfigError("this device has no requests", hint="read=, write=, interrupt or doorbell")
    if rule.kind is Kind.DELAY and not rule.ms:
        raise ConfigError("delay by how much?", hint="ms=100")
    if rule.kind is Kind.ERROR and declared.status() is None:
        raise ConfigError("the requests of this device end with no status", hint="drop, delay, corrupt")
    if rule.kind is Kind.DUPLICATE and rule.number == WIRE:
        raise ConfigError("a wire has a level, which is not there twice", hint="interrupt=VECTOR")
    if (rule.of or rule.done) and rule.place is not Place.REQUEST:
        raise ConfigError(f"{'of' if rule.of else 'at'} is of no meaning to {rule.place}", hint="it is of requests")
    if rule.octets and rule.bits:
        raise ConfigError("bits and bytes exclude each other")
    if sum(1 for name in ("nth", "every", "first") if name in given) > 1 or ("nth" in given and "probability" in given):
        raise ConfigError("nth, every, first: one of them", hint="every and first go with probability, nth does not")
    if "once" in given and "count" in given:
        raise ConfigError("once is count=1")
    if rule.kind in (Kind.KILL, Kind.FREEZE) and not given & (set(_WHICH) - {"seed"}):
        rule = replace(rule, count=1)  # without end it would be of no use to anybody
    return rule


# the words


def _whole(name: str, value: str, least: int = 1, most: int = (1 << 63) - 1) -> int:
    try:
        number = int(value, 0)
    except ValueError:
        raise ConfigError(f"{name}={value}: not a whole number") from None
    if not least <= number <= most:
        raise ConfigError(f"{name}={value}: {least} to {most}")
    return number


def _counted(name: str) -> Callable[[Rule, str, Declared], Rule]:
    least = 0 if name == "seed" else 1
    key = "octets" if name == "bytes" else name
    most = 4096 if name in ("bits", "bytes") else (1 << 63) - 1

    def read(rule: Rule, value: str, _declared: Declared) -> Rule:
        changed: dict[str, Any] = {key: _whole(name, value, least, most)}
        return replace(rule, **changed)

    return read


def _fraction(name: str, value: str) -> float:
    try:
        number = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        raise ConfigError(f"{name}={value}: not a number") from None
    if not 0 < number < math.inf:
        raise ConfigError(f"{name}={value}: more than 0")
    return number


def _probability(rule: Rule, value: str, _declared: Declared) -> Rule:
    number = _fraction("probability", value)
    if number > 1:
        raise ConfigError(f"probability={value}: up to 1, or 100%")
    return replace(rule, probability=number)


def _ms(rule: Rule, value: str, _declared: Declared) -> Rule:
    number = _fraction("ms", value)
    if number > 3_600_000:
        raise ConfigError(f"ms={value}: up to an hour")
    return replace(rule, ms=number)


def _once(rule: Rule, value: str, _declared: Declared) -> Rule:
    if value:
        raise ConfigError(f"once={value}: it has no value")
    return replace(rule, count=1)


def _request(rule: Rule, value: str, _declared: Declared) -> Rule:
    if value:
        raise ConfigError(f"request={value}: it has no value", hint="queue=N, type=NAME")
    return rule


def _queue(rule: Rule, value: str, declared: Declared) -> Rule:
    roles = sorted(set(declared.roles) - {""})
    if value in roles:
        return replace(rule, queue=value)
    if not value.isdigit():
        raise wrong(value, "queue", [*roles, *(str(index) for index in range(min(declared.queues, 8)))])
    if int(value) >= declared.queues:
        raise ConfigError(f"no queue {value}", hint=f"0 to {declared.queues - 1}")
    return replace(rule, queue=int(value))


def _where(rule: Rule, value: str, declared: Declared) -> Rule:
    return replace(rule, where=(*rule.where, *(_condition(part, declared) for part in value.split(","))))


def _condition(text: str, declared: Declared) -> Condition:
    found = _WORD.fullmatch(text)
    if found is None or not found[2]:
        raise ConfigError(f"{text!r} compares nothing", hint=f"FIELD=VALUE, with one of {' '.join(COMPARISONS)}")
    name, comparison, value = found.groups()
    word = declared.fields.get(name)
    if word is None:
        raise wrong(name, "word of a request's header", declared.fields)
    named = {member.name.lower(): int(member) for member in word.names or ()}
    if value.lower() in named:
        return Condition(name, comparison, named[value.lower()])
    if not value[:1].isdigit() and word.names:
        raise wrong(value, name, (member.name for member in word.names))
    return Condition(name, comparison, _whole(name, value, 0, (1 << 8 * word.width) - 1))


def _status(rule: Rule, value: str, declared: Declared) -> Rule:
    word = declared.status()
    names = word.names if word else None
    for member in names or ():
        if member.name.lower() == value.lower():
            return replace(rule, status=int(member))
    if not value[:1].isdigit() or word is None:
        raise wrong(value, "status", (member.name for member in names or ()))
    return replace(rule, status=_whole("status", value, 0, (1 << 8 * word.width) - 1))


def _read(rule: Rule, value: str, declared: Declared) -> Rule:
    if value not in declared.registers:
        raise wrong(value, "register", declared.registers)
    return replace(rule, place=Place.READ, register=value)


def _write(rule: Rule, value: str, declared: Declared) -> Rule:
    if value not in declared.registers:
        raise wrong(value, "register", declared.registers)
    if value in declared.no_write:
        raise ConfigError(f"write={value}: it {declared.no_write[value]}")
    return replace(rule, place=Place.WRITE, register=value)


def _interrupt(rule: Rule, value: str, declared: Declared) -> Rule:
    if value in ("", "wire"):
        return replace(rule, place=Place.INTERRUPT, number=WIRE if value else None)
    if not value.isdigit():
        raise wrong(value, "interrupt", ["wire", *(str(vector) for vector in range(min(declared.vectors, 8)))])
    most = max(declared.vectors, declared.queues)  # over vhost-user each queue has one
    if int(value) >= most:
        raise ConfigError(f"no interrupt {value}", hint=f"0 to {most - 1}, and wire" if most else "wire alone")
    return replace(rule, place=Place.INTERRUPT, number=int(value))


def _doorbell(rule: Rule, value: str, declared: Declared) -> Rule:
    if not declared.doorbells:
        raise ConfigError("this device has no doorbells", hint="write=REGISTER")
    if not value:
        return replace(rule, place=Place.DOORBELL)
    return replace(rule, place=Place.DOORBELL, number=_whole("doorbell", value, 0, declared.doorbells - 1))


def _choice(name: str, choices: tuple[str, ...], change: Callable[[Rule, str], Rule]) -> Callable[..., Rule]:
    def read(rule: Rule, value: str, _declared: Declared) -> Rule:
        if value not in choices:
            raise wrong(value, name, choices)
        return change(rule, value)

    return read


_READ: dict[str, Callable[[Rule, str, Declared], Rule]] = {
    **{name: _counted(name) for name in ("nth", "every", "first", "seed", "count", "bits", "bytes")},
    "probability": _probability,
    "once": _once,
    "ms": _ms,
    "status": _status,
    "of": _choice("of", ("read", "written"), lambda rule, value: replace(rule, of=value)),
    "at": _choice("at", ("taken", "done"), lambda rule, value: replace(rule, done=value == "done")),
    "request": _request,
    "queue": _queue,
    "where": _where,
    "read": _read,
    "write": _write,
    "interrupt": _interrupt,
    "doorbell": _doorbell,
}


def said(rule: Rule, declared: Declared) -> str:
    """Return the text of a rule; ``parse`` makes the same rule of it."""
    words: list[str] = [rule.kind]
    if rule.place is Place.REQUEST:
        words.append("request" if rule.queue is None else f"queue={rule.queue}")
        words += [_said_condition(condition, declared) for condition in rule.where]
    elif rule.register:
        words.append(f"{rule.place}={rule.register}")
    else:
        number = "wire" if rule.number == WIRE else rule.number
        words.append(rule.place if number is None else f"{rule.place}={number}")
    words += [f"{name}={getattr(rule, name)}" for name in ("nth", "every", "first") if getattr(rule, name)]
    if rule.probability < 1:
        words.append(f"probability={rule.probability!r}")
    if rule.seed:
        words.append(f"seed={rule.seed}")
    if rule.count:
        words.append("once" if rule.count == 1 else f"count={rule.count}")
    if rule.ms:
        words.append(f"ms={rule.ms:.17g}")
    if rule.status is not None:
        word = declared.status()
        words.append(f"status={_named(word.names if word else None, rule.status)}")
    words += [f"bits={rule.bits}"] if rule.bits else [f"bytes={rule.octets}"] if rule.octets else []
    words += [f"of={rule.of}"] if rule.of else []
    words += ["at=done"] if rule.done else []
    return " ".join(words)


def _said_condition(condition: Condition, declared: Declared) -> str:
    word = declared.fields[condition.field]
    text = f"{condition.field}{condition.comparison}{_named(word.names, condition.value)}"
    return text if condition.field not in _READ else f"where={text}"


def _named(names: Any, value: int) -> str:
    return next((str(member.name) for member in names or () if int(member) == value), str(value))
