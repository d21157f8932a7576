"""Lines for people, of which a stopped terminal takes none."""

from __future__ import annotations

import threading

from orchestrator.speaker import WAITING_MOST, Speaker


def test_all_is_said_in_order_before_it_closes() -> None:
    heard: list[str] = []
    speaker = Speaker(heard.append)

    for number in range(100):
        speaker.say(str(number))
    speaker.close()

    assert heard == [str(number) for number in range(100)]


def test_nobody_waits_for_one_who_does_not_listen_and_what_was_left_out_is_counted() -> None:
    heard: list[str] = []
    busy, listens = threading.Event(), threading.Event()

    def hear(text: str) -> None:
        busy.set()
        listens.wait()
        heard.append(text)

    speaker = Speaker(hear)
    speaker.say("first")
    busy.wait()
    for number in range(WAITING_MOST + 7):
        speaker.say(str(number))
    listens.set()
    speaker.close()

    assert len(heard) == WAITING_MOST + 2
    assert heard[-1] == "7 more messages were left out"


def test_closing_does_not_wait_for_ever() -> None:
    never = threading.Event()
    speaker = Speaker(lambda _text: never.wait(30.0) and None)
    for _ in range(WAITING_MOST + 2):
        speaker.say("a word")

    speaker.close()

    never.set()
