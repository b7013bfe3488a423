"""The walls around a node: which stand, which a stack's own keys make weaker, and what that means."""

from __future__ import annotations

from dataclasses import dataclass

from layer1.model import Accel, BoardNode, Encryption, ImageSource, Node, Os, Role, StackConfig, Svirt


@dataclass(frozen=True, kw_only=True, slots=True)
class Wall:
    """One wall.

    Attributes:
        name: its stable name, as in the outputs.
        on: whether the plan builds it.
        text: what it does, or what is lost without it.
        key: the stack's key that took it away, None while it stands.
    """

    name: str
    on: bool
    text: str
    key: str | None = None


def walls(stack: StackConfig, node: Node | BoardNode) -> tuple[Wall, ...]:
    """List a node's walls as its stack plans them; whether they hold on the host is the audit's to say."""
    if isinstance(node, BoardNode):
        return (
            _wall(
                "hypervisor",
                False,
                "",
                "no hypervisor: who breaks out of a container is on the board itself",
                f"{node.key}.board",
            ),
            *(_talos_board_walls(stack, node) if node.os == Os.TALOS else _raspios_walls(node)),
        )
    host = stack.hosts[node.host_name]
    host_key = f"layer1:hosts.{node.host_name}"
    return (
        _wall(
            "hypervisor",
            host.accel == Accel.KVM,
            "guest code runs on the processor, behind KVM",
            "guest code runs in QEMU's emulator, which promises no isolation (QEMU, docs/system/security)",
            f"{host_key}.accel",
        ),
        _wall(
            "svirt",
            host.svirt == Svirt.APPARMOR,
            "an AppArmor profile of its own confines this QEMU to its own disks",
            "no AppArmor profile is asked for; a broken QEMU reads other nodes' disks",
            f"{host_key}.svirt",
        ),
        _wall(
            "memory_hard_limit",
            host.memory_hard_limit,
            "the whole QEMU process is held below a memory limit",
            "a runaway QEMU can take the host's memory",
            f"{host_key}.memory_hard_limit",
        ),
        *(_talos_walls(stack) if node.os == Os.TALOS else _flatcar_walls(stack, node)),
        _wall(
            "device_model", True, "virtio and one read-only CD-ROM; no USB, sound, screen, console or agent"
        ),
        _wall("traffic_filter", True, f"frames leave only from {node.mac} and {_addresses(stack, node)}"),
    )


def _addresses(stack: StackConfig, node: Node) -> str:
    virtual = stack.talos.virtual_ip if node.role == Role.CONTROLPLANE else None
    return f"{node.ip} and the virtual address {virtual}" if virtual else node.ip


_DISK_KEY = {
    Encryption.NODE_ID: "the disk is encrypted; its key is made from the machine's UUID, so a copied disk "
    "alone is unreadable",
    Encryption.TPM: "the disk is encrypted; its key is sealed in the vTPM and opens after Secure Boot alone",
}


def _talos_walls(stack: StackConfig) -> tuple[Wall, ...]:
    encryption = stack.talos_encryption
    return (
        _wall(
            "disk_encryption",
            encryption != Encryption.NONE,
            _DISK_KEY.get(encryption, ""),
            "the disk holds the cluster's keys as they are: whoever copies it has them",
            "layer1:talos.encryption",
        ),
        _wall("image_pinned", True, "the image has the pinned digest; the public factory signs nothing"),
        _wall("immutable_root", True, "the root is a read-only image; /etc and /usr cannot be changed"),
        _wall("no_shell", True, "no SSH, no shell, no console; an API over mutual TLS alone"),
    )


def _flatcar_walls(stack: StackConfig, node: Node) -> tuple[Wall, ...]:
    return (
        _wall(
            "image_signature",
            stack.images.flatcar.source == ImageSource.OFFICIAL,
            "the image is signed by Flatcar's pinned key",
            "the image was built on this machine; only the digest of that build vouches for it",
            "layer1:images.flatcar.source",
        ),
        _wall(
            "image_updates",
            True,
            f"updates: {node.updates} (who reboots is decided)",
        ),
        _wall("immutable_usr", True, "/usr is verified by dm-verity and read-only, for root too"),
        _wall("ssh_keys_only", True, "no password and no root login; the host key is the stack's own"),
    )


def _talos_board_walls(stack: StackConfig, node: BoardNode) -> tuple[Wall, ...]:
    return (
        *_talos_walls(stack),
        _wall(
            "first_contact",
            node.maintenance_fingerprint is not None,
            "the first config goes only to the board whose certificate has this fingerprint",
            "the first config, with the cluster's keys, goes to whatever answers at the board's address",
            f"{node.key}.maintenance_fingerprint",
        ),
    )


def _raspios_walls(node: BoardNode) -> tuple[Wall, ...]:
    return (
        _wall("image_signature", True, "the image is signed by Raspberry Pi's pinned key"),
        _wall(
            "immutable_usr",
            False,
            "",
            "Raspberry Pi OS is an ordinary writable system: root can change it, and that stays",
            f"{node.key}.os",
        ),
        _wall("ssh_keys_only", True, "no password and no root login; the host key is the stack's own"),
        _wall("firewall", True, "whatever no rule lets in is dropped (nftables on the board)"),
    )


def _wall(name: str, on: bool, stands: str, lost: str = "", key: str | None = None) -> Wall:
    return Wall(name=name, on=on, text=stands if on else lost, key=None if on else key)


def weaker(stack: StackConfig, node: Node | BoardNode) -> tuple[Wall, ...]:
    """List the walls that the stack's own keys took away."""
    return tuple(wall for wall in walls(stack, node) if not wall.on)
