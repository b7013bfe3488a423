"""Judges what lies in the pool: who may read it, and that disks stand on the image that was verified."""

from __future__ import annotations

from layer1.audit.collect import disk_paths
from layer1.audit.facts import Domain, File, Host
from layer1.audit.intent import Intent
from layer1.audit.seen import Seen, no, unknown, yes
from layer1.audit.views import OnHost, Subject, by_host


@by_host
def directory(on: OnHost) -> Seen:
    """Nobody but its owner may list the pool's directory, and root owns it."""
    host, wanted = on.host, on.wanted
    if host.directory is None:
        return unknown(f"{wanted.directory} cannot be seen")
    said = f"{wanted.directory}: {host.directory.mode}, owner {host.directory.uid}"
    return Seen(host.directory.mode == "0711" and host.directory.uid == 0, said)


@by_host
def disk_modes(on: OnHost) -> Seen:
    """The node's disks, and what they stand on, are readable by their owner alone."""
    host, domain, intent = on.host, on.domain, on.intent
    paths = [path for path in disk_paths(domain.xml) if intent.owns(path) and not path.endswith(".iso")]
    below = [below for path in paths if (file := host.files.get(path)) and (below := file.backing)]
    return _modes(host, domain, [*paths, *below])


@by_host
def seed_mode(on: OnHost) -> Seen:
    """The seed, which holds keys, is readable by its owner alone."""
    host, domain = on.host, on.domain
    return _modes(host, domain, [path for path in disk_paths(domain.xml) if path.endswith(".iso")])


def _modes(host: Host, domain: Domain, paths: list[str]) -> Seen:
    if not paths:
        return unknown(f"the domain is {domain.state}, and names no such file")
    files = {path: host.files.get(path) for path in paths}
    hidden = [path for path, file in files.items() if file is None]
    if hidden:
        return unknown(f"{', '.join(hidden)} cannot be seen")
    owner = _qemu_uid(domain)
    if owner is None:
        return unknown("no running QEMU says as which user it reads them")
    said = ", ".join(
        f"{path.rpartition('/')[2]} {file.mode} owner {file.uid}" for path, file in files.items() if file
    )
    return Seen(all(file and file.mode == "0600" and file.uid in (0, owner) for file in files.values()), said)


def _qemu_uid(domain: Domain) -> int | None:
    for process in (domain.host.processes if domain.host else {}).values():
        if process is not None and (uid := process.status.get("Uid", "").split()):
            return int(uid[0])
    return None


def _root(host: Host, domain: Domain, intent: Intent) -> tuple[str, File | None]:
    path = next((path for path in disk_paths(domain.xml) if intent.owns(path) and "-root-" in path), "")
    return path, host.files.get(path)


@by_host
def overlay(on: OnHost) -> Seen:
    """The root disk is an overlay on the stack's base volume, and that on nothing."""
    path, root = _root(on.host, on.domain, on.intent)
    if root is None or root.format is None:
        return unknown(f"{path or 'the root disk'} cannot be read, which root can")
    name = path.rpartition("/")[2]
    if root.external_data or root.backing is None or not on.intent.is_base(root.backing):
        where = "data in another file" if root.external_data else root.backing or "nothing"
        return no(f"{name} stands on {where}, wanted {on.wanted.directory}/{on.wanted.base_file}")
    base = on.host.files.get(root.backing)
    if base is None or base.format is None:
        return unknown(f"{root.backing} cannot be read, which root can")
    if base.backing or base.external_data:
        return no(f"{root.backing} itself stands on {base.backing or 'another file'}")
    return yes(f"qcow2 header of {name}: on {root.backing.rpartition('/')[2]}, which stands on nothing")


@by_host
def base_digest(on: OnHost) -> Seen:
    """The base volume's content, hashed now, is the image that was verified."""
    host, domain, intent = on.host, on.domain, on.intent
    path, root = _root(host, domain, intent)
    base = host.files.get(root.backing) if root is not None and root.backing else None
    if base is None or base.sha512 is None:
        return unknown(f"the base volume of {path or 'the root disk'} cannot be read, which root can")
    if not intent.pinned:
        return unknown("no digest vouches for this image: neither a pin nor the stack's output")
    name = str(root.backing if root else "").rpartition("/")[2]
    if base.sha512 not in intent.pinned:
        pinned = " or ".join(sorted(f"{digest[:12]}…" for digest in intent.pinned))
        return no(f"{name}: SHA-512 {base.sha512[:12]}…, wanted {pinned}")
    return yes(f"{name}: SHA-512 {base.sha512[:12]}…, as pinned")


def image_vouched(subject: Subject) -> Seen:
    """A pinned signing key vouches for the image."""
    intent = subject.intent
    if not intent.verified_by:
        return unknown("the stack's outputs say nothing of the image")
    return Seen("signature" in intent.verified_by, f"the image was verified by {intent.verified_by}")
