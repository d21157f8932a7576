"""``up`` with the console on this terminal."""

from __future__ import annotations

import asyncio
import contextlib

from orchestrator.config import Config
from orchestrator.console import Console, Terminal
from orchestrator.launch import ENDING_SIGNALS, Running
from orchestrator.plan import CPU
from orchestrator.report import Spoken
from orchestrator.speaker import Speaker
from orchestrator.supervise import Supervisor


def attend(running: Running, config: Config, terminal: Terminal) -> int:
    """Supervise the VM with its console here until its end; return the guest's exit status.

    The caller takes its other processes down.
    """
    speaker = Speaker(terminal.say)
    try:
        return asyncio.run(_attend(running, config, terminal, Spoken(speaker.say, on_ran=terminal.raw)))
    finally:
        speaker.close()
        terminal.restore()


async def _attend(running: Running, config: Config, terminal: Terminal, audience: Spoken) -> int:
    loop = asyncio.get_running_loop()
    supervisor = Supervisor(running, config, audience)
    closed = asyncio.Event()

    def from_thread(action: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(action)  # type: ignore[arg-type]

    console = Console(
        running.runtime.console_socket,
        terminal,
        on_escape=lambda: from_thread(supervisor.ask_down),
        on_closed=lambda: from_thread(closed.set),
        on_broken=lambda: from_thread(supervisor.ask_down),
    )
    console.start()
    try:
        status = await supervisor.run()
        if running.children[CPU].has_ended and console.has_joined:
            # what the guest printed last is still on its way; whoever does not want it interrupts
            for number in ENDING_SIGNALS:
                loop.add_signal_handler(number, console.stop)
            await closed.wait()
        return status
    finally:
        console.stop()
        terminal.restore()
