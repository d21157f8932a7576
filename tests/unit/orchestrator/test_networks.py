"""Keys of network cards and hubs, and what their processes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import config, plan
from protocol.errors import ConfigError
from protocol.names import Runtime

CARD = '[[device]]\nid = "net0"\ntype = "virtio-net"\n'
HUB = '[[hub]]\nid = "lan"\n'


def load(tmp_path: Path, text: str) -> config.Config:
    file = tmp_path / "vm.toml"
    file.write_text('[vm]\nname = "nets"\n' + text)
    return config.load(file)


def argv(tmp_path: Path, text: str, process: str = "net0") -> tuple[str, ...]:
    made = plan.make(load(tmp_path, text), Runtime("nets"), guest=tmp_path)
    return made.process(process).argv


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CARD + 'backend = "dgram"\n', "device.remote: missing"),
        (CARD + 'backend = "stream"\n', "device.address: missing"),
        (CARD + 'backend = "none"\naddress = "unix:x"\n', "device.address: is not for backend 'none'"),
        (CARD + 'backend = "stream"\naddress = "unix:x"\nlocal = "unix:y"\n', "local: is not for backend 'stream'"),
        (CARD + 'backend = "ethernet"\n', "'ethernet' is none of its values"),
        (CARD + 'backend = "hub"\n', "device.hub: missing"),
        (CARD + 'backend = "hub"\nhub = "lan"\n', "no hub 'lan'"),
        (HUB + CARD + 'backend = "hub"\nhub = "len"\n', "no hub 'len'"),
        (CARD + 'backend = "hub"\nhub = "a b/lan"\n', "'a b/lan' names no hub"),
        (HUB + HUB, "hub.id: 'lan' is taken"),
        ('[[hub]]\nid = "net0"\n' + CARD, "hub.id: 'net0' is taken"),
        ('[[hub]]\nid = "a-b"\n', "hub.id: 'a-b' is no id"),
        (CARD + "queues = 65\n", "queues: 65 is out of range"),
        (CARD + "mtu = 20\n", "mtu: 20 is out of range"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load(tmp_path, text)


def test_each_card_has_an_address_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    two = CARD + CARD.replace("net0", "net1")
    first, second = argv(tmp_path, two), argv(tmp_path, two, "net1")
    mac = next(word for word in first if word.startswith("--mac="))
    assert mac.startswith("--mac=52:54:00:")
    assert mac not in second
    assert mac in argv(tmp_path, two)
    assert "--mac=02:00:00:00:00:07" in argv(tmp_path, CARD + 'mac = "02:00:00:00:00:07"\n')


def test_a_card_finds_its_hub(tmp_path: Path) -> None:
    card = CARD + 'backend = "hub"\nhub = "lan"\n'
    own = argv(tmp_path, HUB + card)
    assert f"--hub={Runtime('nets').hub_socket('lan')}" in own
    other = argv(tmp_path, card.replace('"lan"', '"other/lan"'))
    assert f"--hub={Runtime('other').hub_socket('lan')}" in other
    hub = argv(tmp_path, HUB + 'listen = ["127.0.0.1:9000"]\n' + card, "lan")
    assert f"--cards={Runtime('nets').hub_socket('lan')}" in hub
    assert "--listen=127.0.0.1:9000" in hub
