"""Gets riscv64 packages with the host's own apt, as any user, with nothing of the host's package state touched.

A private ``apt.conf`` (named by ``APT_CONFIG``, which apt reads before everything else) moves state, cache and
configuration into ``$XDG_CACHE_HOME/busvm/debian/<suite>``. apt resolves dependencies, checks signatures and sums;
what was fetched once is not fetched again, so a second build works without a network.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.image import programs
from orchestrator.image.progress import Progress
from protocol.errors import BusvmError, ConfigError, HostError

ARCHITECTURE = "riscv64"
LISTS_MAX_AGE_S = 24 * 3600
CARRIED = re.compile(
    r"Acquire::(?:(?:http|https|ftp)::|(?:Retries|ForceIPv4|ForceIPv6|Check-Valid-Until|Check-Date|Max-ValidTime) )"
)
SYNC_WAITS_S = (5, 15, 40)  # a mirror, or a cache before it, that is being updated has files that do not go together
SYNC = ("Mirror sync in progress", "Hash Sum mismatch")
_HELPER = "/usr/lib/apt/apt-helper"  # no program for people, and on no PATH
NO_NETWORK = (
    "Could not resolve", "Temporary failure", "Could not connect", "Unable to connect", "Connection", "timed out",
)  # fmt: skip


@dataclass(frozen=True)
class Package:
    """A package apt has put into the cache."""

    name: str
    version: str
    path: Path


def cache_folder() -> Path:
    """Return the folder of everything a build keeps for the next one."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "busvm" / "debian"


class Outdated(HostError):
    """The mirror no longer has a package that its lists, as they are here, name."""


class Apt:
    """apt with a private state for one suite. Use within `locked`."""

    def __init__(self, folder: Path, mirror: str, suite: str, keyring: str, progress: Progress) -> None:
        self.folder = folder
        self.archives = folder / "archives"
        self._lists = folder / "lists"
        self._stamp = folder / "updated"
        self._mirror = mirror
        self._source = f"deb [arch={ARCHITECTURE} signed-by={keyring}] {mirror} "
        self._source_file = folder / "etc" / "sources.list"
        self._config = folder / "apt.conf"
        self._progress = progress
        self.suite = suite

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the cache; a second build waits here for the first."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = (self.folder / "lock").open("w")
        except OSError as error:
            raise HostError(
                f"cannot write the cache {self.folder}: {error.strerror}",
                hint="set XDG_CACHE_HOME to a folder of yours",
            ) from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._progress.step("waiting for another build that uses the package cache")
                fcntl.flock(handle, fcntl.LOCK_EX)
            self._write_config()
            yield

    def update(self, *, force: bool = False) -> None:
        """Bring the package lists up to date if they are older than a day.

        A mirror that is just being updated is asked by the release's other name, then again for a minute. Where it does
        not answer, or goes on so, old lists do. Raises HostError if there are none at all.
        """
        known = self._source_file.read_text() if self._source_file.exists() else ""
        age = None
        if known.startswith(self._source) and self._stamp.exists():
            age = time.time() - self._stamp.stat().st_mtime
        if age is not None and 0 <= age < LISTS_MAX_AGE_S and not force:
            return
        self._progress.step(f"reading the package lists of Debian {self.suite} ({ARCHITECTURE})")
        result = self._ask()
        for wait in SYNC_WAITS_S:
            if not _is_sync(result):
                break
            self._progress.step(f"  the mirror is being updated: asking again in {wait} s")
            time.sleep(wait)
            result = self._ask()
        if result.returncode == 0:
            self._stamp.touch()
            return
        if age is not None and (_is_network(result.stderr) or _is_sync(result)):
            self._source_file.write_text(known)
            state = "is being updated" if _is_sync(result) else "does not answer"
            self._progress.step(f"  the mirror {state}: going on with the lists of the last build")
            return
        self._source_file.unlink()
        if "does not have a Release file" in result.stdout:
            raise ConfigError(
                f"--suite: the mirror has no Debian release {self.suite}", hint="the default, trixie, is Debian 13"
            )
        raise _failure("the package lists could not be read", result.stderr)

    def _ask(self) -> programs.Result:
        """Read the lists of the release, by its other name where the files of the first do not go together."""
        result = self._read_lists(self.suite)
        other = self._other_name() if _is_sync(result) else ""
        if not other:
            return result
        self._progress.step(
            f"  the mirror's files of {self.suite} do not go together: asking for {other}, which is the same"
        )
        found = self._read_lists(other)
        return result if found.returncode else found

    def _read_lists(self, name: str) -> programs.Result:
        self._source_file.write_text(f"{self._source}{name} main\n")
        return self._fetch("update", "--error-on=any")

    def _other_name(self) -> str:
        """Return the release's other name, ``stable`` of a code name or the reverse, if the mirror has it by that."""
        release = self._release(self.suite)
        names = {release.get("Suite", ""), release.get("Codename", "")}
        if self.suite not in names or len(names) == 1:
            return ""
        other = (names - {self.suite}).pop()
        same = other and self._release(other).get("Codename") == release["Codename"]
        return other if same else ""

    def _release(self, name: str) -> dict[str, str]:
        """Return what the mirror says of a release, which nobody has checked: apt does when it reads its lists."""
        path = self.folder / "release"
        path.unlink(missing_ok=True)
        self._apt(_HELPER, "download-file", f"{self._mirror.rstrip('/')}/dists/{name}/InRelease", str(path))
        text = path.read_text(errors="replace") if path.exists() else ""
        return dict(re.findall(r"^(Suite|Codename): *(\S+)$", text, re.MULTILINE))

    def install_set(self, patterns: Sequence[str], include: Sequence[str]) -> list[Package]:
        """Download the packages that ``patterns`` and ``include`` mean and what they depend on, in apt's order."""
        wanted = [*patterns, *include]
        plan = self._apt("apt-get", "install", "-s", "-y", *wanted)
        if plan.returncode != 0:
            raise self._install_failure(plan.stderr + plan.stdout, include)
        names = re.findall(r"^Inst (\S+) \((\S+) .*?\[(\w+)\]\)", plan.stdout, re.MULTILINE)
        result = self._fetch("install", "--download-only", "-y", *wanted)
        if result.returncode != 0:
            if "404" in result.stderr:
                raise Outdated("the mirror no longer has some of these packages", hint="--refresh reads its lists anew")
            raise _failure("the packages could not be downloaded", result.stderr)
        return [self._package(name, version, architecture) for name, version, architecture in names]

    def download(self, name: str) -> Package:
        """Download the one package ``name``, without what it depends on."""
        result = self._fetch("download", name, cwd=self.archives)
        if result.returncode != 0:
            raise self._install_failure(result.stderr, [name])
        shown = self._apt("apt-cache", "show", "--no-all-versions", name).stdout
        version = _field(shown, "Version")
        return self._package(name, version, _field(shown, "Architecture"))

    def kernel_package(self, meta: str) -> str:
        """Return the name of the kernel package that the package ``meta`` stands for."""
        shown = self._apt("apt-cache", "show", "--no-all-versions", meta)
        match = re.search(r"^Depends:.*?\b(linux-image-\S+)", shown.stdout, re.MULTILINE)
        if match is None:
            raise HostError(f"Debian {self.suite} has no package {meta}", hint="try --suite trixie")
        return match[1]

    def _package(self, name: str, version: str, architecture: str) -> Package:
        escaped = version.replace(":", "%3a")
        path = self.archives / f"{name}_{escaped}_{architecture}.deb"
        if not path.is_file():
            raise HostError(f"apt did not download {path.name}", hint=f"remove {self.folder} and try again")
        return Package(name, version, path)

    def _install_failure(self, messages: str, include: Sequence[str]) -> BusvmError:
        match = re.search(r"E: (?:Unable to locate package|Package '?)\s*([^\s']+)", messages)
        if match and (match[1] in include or "has no installation candidate" in messages):
            name = match[1]
            known = self._apt("apt-cache", "pkgnames").stdout.split()
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"the nearest name is {near[0]}" if near else "look for it on packages.debian.org"
            return ConfigError(f"--include: Debian {self.suite} has no package {name} for {ARCHITECTURE}", hint=hint)
        unmet = re.search(r"^ (\S+ : .*)$", messages, re.MULTILINE)
        if unmet:
            return ConfigError(f"--include: {' '.join(unmet[1].split())}", hint="these packages do not go together")
        return _failure("apt cannot install these packages", messages)

    def _write_config(self) -> None:
        for name in ("lists/partial", "archives/partial", "etc/apt.conf.d", "etc/preferences.d"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").write_text("")
        lines = [
            f'APT::Architecture "{ARCHITECTURE}";',
            f'APT::Architectures {{ "{ARCHITECTURE}"; }};',
            'APT::Install-Recommends "false";',
            'APT::Sandbox::User "root";',  # else apt, run by root, downloads as _apt, who may not write here
            'Acquire::Languages "none";',
            'Binary::apt-get::APT::Keep-Downloaded-Packages "true";',
            f'Dir "{self.folder}";',
            f'Dir::State "{self.folder}";',
            f'Dir::State::lists "{self._lists}";',
            f'Dir::State::status "{self.folder}/status";',
            f'Dir::Cache "{self.folder}";',
            f'Dir::Cache::archives "{self.archives}";',
            f'Dir::Etc "{self.folder}/etc";',
            'Dir::Etc::netrc "/etc/apt/auth.conf";',
            'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";',
            'Dir::Log "/dev/null";',
        ]
        host = programs.run(["apt-config", "dump"]).stdout.splitlines()
        lines += [line for line in host if CARRIED.match(line)]  # proxies and the like
        self._config.write_text("\n".join(lines) + "\n")

    def _apt(self, *command: str, cwd: Path | None = None) -> programs.Result:
        return programs.run(command, env={"APT_CONFIG": str(self._config)}, cwd=cwd)

    def _fetch(self, *words: str, cwd: Path | None = None) -> programs.Result:
        """Run apt-get with its progress shown."""

        def show(line: str) -> None:
            fields = line.strip().split(":", 3)
            if fields[0] == "dlstatus" and len(fields) == 4:
                self._progress.at(int(float(fields[2])), 100, fields[3])

        command = ["apt-get", "-q2", "-o", "APT::Status-Fd=1", *words]
        return programs.watch(command, show, env={"APT_CONFIG": str(self._config)}, cwd=cwd)


def _field(stanza: str, name: str) -> str:
    match = re.search(rf"^{name}: *(.*)$", stanza, re.MULTILINE)
    return match[1] if match else ""


def _is_network(messages: str) -> bool:
    return any(sign in messages for sign in NO_NETWORK)


def _is_sync(result: programs.Result) -> bool:
    return result.returncode != 0 and _are_apart(result.stderr)


def _are_apart(messages: str) -> bool:
    return any(sign in messages for sign in SYNC)


def _failure(what: str, messages: str) -> HostError:
    """Condense apt's complaint to its first error line, with a hint that fits."""
    errors = [line[3:].strip() for line in messages.splitlines() if line.startswith(("E: ", "W: "))]
    errors.sort(key=lambda line: "NO_PUBKEY" not in line)
    first = errors[0] if errors else (messages.strip().splitlines() or ["apt gave no reason"])[-1]
    if "No space left" in messages:
        return HostError("no space left on the disk of the package cache", hint="set XDG_CACHE_HOME to another disk")
    if "NO_PUBKEY" in messages or "not signed" in messages:
        return HostError(f"{what}: {first}", hint="upgrade the package debian-archive-keyring")
    if _are_apart(messages):
        return HostError(
            f"{what}, the mirror is being updated: {first}", hint="try again in some minutes, or --mirror URI"
        )
    if _is_network(messages):
        return HostError(f"{what}, the mirror does not answer: {first}", hint="check the network, or give --mirror URI")
    return HostError(f"{what}: {first}", hint="apt's own words; --mirror URI takes another mirror")
