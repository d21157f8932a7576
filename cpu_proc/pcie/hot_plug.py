"""The PCI Express capability of a root port with a hot-plug slot (PCIe 5.0 §7.5.3), and what plugging does to it.

An operator inserts a card, presses the attention button, pulls the card. A guest answers with the power controller
and the indicators in Slot Control. Every change that the guest may want to know of is an event in Slot Status, which
it clears by writing a one; the port interrupts while an event that the guest has enabled is set (§6.7.3.4).
"""

from __future__ import annotations

from typing import ClassVar

from cpu_proc.pcie.config_space import ConfigSpace

EXPRESS = 0x60  # where the capability is
EXPRESS_ID, VERSION, ROOT_PORT, SLOT_IMPLEMENTED = 0x10, 2, 4 << 4, 0x100
_DEVICE_CAPABILITIES, _DEVICE_CONTROL = EXPRESS + 0x04, EXPRESS + 0x08
_LINK_CAPABILITIES, LINK_CONTROL, LINK_STATUS = EXPRESS + 0x0C, EXPRESS + 0x10, EXPRESS + 0x12
SLOT_CAPABILITIES, SLOT_CONTROL, SLOT_STATUS = EXPRESS + 0x14, EXPRESS + 0x18, EXPRESS + 0x1A
_ROOT_CONTROL, _ROOT_STATUS = EXPRESS + 0x1C, EXPRESS + 0x20
_LINK_CAPABILITIES_2, _LINK_CONTROL_2 = EXPRESS + 0x2C, EXPRESS + 0x30
BRIDGE_CONTROL = 0x3E

ROLE_BASED_ERRORS = 0x8000
SPEED_2_5, WIDTH_1 = 0x1, 0x1 << 4
ACTIVE_REPORTING, ASPM_OPTIONALITY = 1 << 20, 1 << 22
LINK_DISABLE, LINK_ACTIVE = 0x10, 0x2000
BUS_RESET = 0x40
# Slot Capabilities: attention button, power controller, both indicators, surprise removal, hot plug (§7.5.3.9)
BUTTON, POWER_CONTROLLER, ATTENTION_INDICATOR, POWER_INDICATOR, SURPRISE, HOT_PLUG = 0x01, 0x02, 0x08, 0x10, 0x20, 0x40
# Slot Control (§7.5.3.10)
BUTTON_ENABLE, PRESENCE_ENABLE, COMMAND_ENABLE, INTERRUPT_ENABLE, LINK_ENABLE = 0x01, 0x08, 0x10, 0x20, 0x1000
ATTENTION_OFF, POWER_INDICATOR_ON, POWER_OFF = 0x00C0, 0x0100, 0x0400
_CONTROL_MASK = 0x17FB  # no sensor of a retention latch, no interlock
# Slot Status (§7.5.3.11)
PRESSED, PRESENCE_CHANGED, COMMAND_COMPLETED, PRESENT, LINK_CHANGED = 0x001, 0x008, 0x010, 0x040, 0x100
_EVENTS = PRESSED | 0x002 | PRESENCE_CHANGED | COMMAND_COMPLETED | LINK_CHANGED

INDICATORS = {0: "reserved", 1: "on", 2: "blinking", 3: "off"}


class HotPlugSlot:
    """The slot of one port; its registers are in the port's configuration space."""

    # an event and what enables its interrupt
    _ENABLES: ClassVar = {
        PRESSED: BUTTON_ENABLE,
        PRESENCE_CHANGED: PRESENCE_ENABLE,
        COMMAND_COMPLETED: COMMAND_ENABLE,
        LINK_CHANGED: LINK_ENABLE,
    }

    def __init__(self, space: ConfigSpace, number: int) -> None:
        """Declare the capability; ``number`` is the slot's on the chassis, which a guest names it by."""
        self._space = space
        space.declare(EXPRESS, 1, EXPRESS_ID)
        space.declare(EXPRESS + 2, 2, VERSION | ROOT_PORT | SLOT_IMPLEMENTED)
        space.declare(_DEVICE_CAPABILITIES, 4, ROLE_BASED_ERRORS)
        space.declare(_DEVICE_CONTROL, 2, writable=0x000F)
        link = SPEED_2_5 | WIDTH_1 | ACTIVE_REPORTING | ASPM_OPTIONALITY | number << 24
        space.declare(_LINK_CAPABILITIES, 4, link)
        space.declare(LINK_CONTROL, 2, writable=0x00C0 | LINK_DISABLE)
        capabilities = BUTTON | POWER_CONTROLLER | ATTENTION_INDICATOR | POWER_INDICATOR | SURPRISE | HOT_PLUG
        space.declare(SLOT_CAPABILITIES, 4, capabilities | number << 19)
        # powered from the start, as firmware leaves a slot: a guest without a hot-plug driver finds what is there,
        # and one with a driver switches an empty slot off by itself
        space.declare(SLOT_CONTROL, 2, ATTENTION_OFF | POWER_INDICATOR_ON, writable=_CONTROL_MASK)
        space.declare(SLOT_STATUS, 2, clearable=_EVENTS)
        space.declare(_ROOT_CONTROL, 2, writable=0x001F)
        space.declare(_ROOT_STATUS, 4, clearable=0x1_0000)
        space.declare(_LINK_CAPABILITIES_2, 4, SPEED_2_5 << 1)
        space.declare(_LINK_CONTROL_2, 2, SPEED_2_5, writable=0x000F)

    # what can be seen

    @property
    def _control(self) -> int:
        return self._space.get(SLOT_CONTROL, 2)

    @property
    def present(self) -> bool:
        """Whether a card is in the slot."""
        return bool(self._space.get(SLOT_STATUS, 2) & PRESENT)

    @property
    def powered(self) -> bool:
        """Whether the guest has the slot powered."""
        return not self._control & POWER_OFF

    @property
    def link(self) -> bool:
        """Whether the link to the card is up."""
        return bool(self._space.get(LINK_STATUS, 2) & LINK_ACTIVE)

    @property
    def indicator(self) -> str:
        """The power indicator: blinking while the guest is about to switch, off when the card may be pulled."""
        return INDICATORS[self._control >> 8 & 3]

    @property
    def attention(self) -> str:
        """The attention indicator: on when something went wrong."""
        return INDICATORS[self._control >> 6 & 3]

    @property
    def driven(self) -> bool:
        """Whether a hot-plug driver of the guest listens to the button."""
        wanted = INTERRUPT_ENABLE | BUTTON_ENABLE
        return self._control & wanted == wanted

    @property
    def let_go(self) -> bool:
        """Whether a hot-plug driver says that the card may be pulled: no power, indicator off (§6.7.1.5)."""
        return not self.powered and self.indicator == "off"

    @property
    def interrupt(self) -> bool:
        """Whether the port interrupts: an event is set that the guest has enabled (§6.7.3.4)."""
        control, status = self._control, self._space.get(SLOT_STATUS, 2)
        return bool(control & INTERRUPT_ENABLE) and any(
            status & event and control & enable for event, enable in self._ENABLES.items()
        )

    # what the operator does

    def insert(self) -> None:
        """Put a card in; where the slot has no power, the button asks for it."""
        self._space.change(SLOT_STATUS, set_bits=PRESENT | PRESENCE_CHANGED)
        if not self.powered:
            self.press()
        self.train()

    def pull(self) -> None:
        """Take the card out, whatever the guest thinks of it."""
        self._space.change(SLOT_STATUS, set_bits=PRESENCE_CHANGED, clear_bits=PRESENT)
        self.train()

    def press(self) -> None:
        """Press the attention button."""
        self._space.change(SLOT_STATUS, set_bits=PRESSED)

    # what the guest does

    def written(self, offset: int, size: int) -> None:
        """Take the effect of a store into configuration space."""
        if SLOT_CONTROL - size < offset < SLOT_CONTROL + 2:
            # a store to Slot Control is a command (§6.7.3.2); ours take no time
            self._space.change(SLOT_STATUS, set_bits=COMMAND_COMPLETED)
        self.train()

    def train(self) -> None:
        """Bring the link up or down, as the card, its power and the guest's other wishes have it."""
        up = (
            self.present
            and self.powered
            and not self._space.get(LINK_CONTROL, 2) & LINK_DISABLE
            and not self._space.get(BRIDGE_CONTROL, 2) & BUS_RESET
        )
        if up != self.link:
            self._space.put(LINK_STATUS, 2, LINK_ACTIVE | SPEED_2_5 | WIDTH_1 if up else 0)
            self._space.change(SLOT_STATUS, set_bits=LINK_CHANGED)

    def reset(self, *, present: bool) -> None:
        """Take the state after a reset, with a card in the slot or without; nothing has changed then."""
        if present:
            self._space.change(SLOT_STATUS, set_bits=PRESENT)
        self.train()
        self._space.change(SLOT_STATUS, clear_bits=_EVENTS)
