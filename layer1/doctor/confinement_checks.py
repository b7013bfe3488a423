"""The checks of what confines QEMU on a host: AppArmor, libvirt's settings, seccomp."""

from __future__ import annotations

from layer1.doctor.check import Answer, Check, Unlearned, UnlearnedError, judged, learned
from layer1.doctor.host_probe import Facts
from layer1.doctor.qemu_conf import Value, parse
from layer1.doctor.view import HostView
from layer1.errors import HostError

_FILE = "/etc/libvirt/qemu.conf"
_APPARMOR = '"apparmor"'
_NO_APPARMOR = (
    "sudo apt-get install apparmor, put `apparmor=1 security=apparmor` on the kernel's command line, reboot; "
    "a kernel without AppArmor has to be replaced by the distribution's"
)


def in_kernel(view: HostView) -> Answer:
    """Say whether the kernel has AppArmor switched on."""
    enabled = learned(view.facts).apparmor
    return judged(
        enabled == "Y",
        {"Y": "/sys/module/apparmor/parameters/enabled is Y", None: "the kernel has no AppArmor"}.get(
            enabled, f"/sys/module/apparmor/parameters/enabled is {enabled}"
        ),
        _NO_APPARMOR,
        view.svirt_key,
    )


def daemon_confined(view: HostView) -> Answer:
    """Say whether libvirt's daemon runs in its own profile: only then it confines its guests."""
    daemon = learned(view.facts).daemon
    if daemon is None:
        raise UnlearnedError(
            Unlearned(
                f"no process libvirtd or virtqemud on the host of {view.config.uri}",
                "sudo systemctl start libvirtd, on the host that the URI names",
            )
        )
    label = daemon.label
    confined = label is not None and label not in ("", "unconfined") and not label.endswith("(complain)")
    return judged(
        confined,
        f"{daemon.name} runs as {label or 'nothing: the kernel gives it no label'}",
        f"sudo aa-enforce /etc/apparmor.d/usr.sbin.{daemon.name} && sudo systemctl restart {daemon.name}",
        view.svirt_key,
    )


def secmodel(view: HostView) -> Answer:
    """Say whether libvirt itself offers AppArmor."""
    models = learned(view.libvirt).secmodels
    return judged(
        "apparmor" in models,
        f"virsh capabilities: {', '.join(models) or 'none'}",
        "when the rows above hold: sudo systemctl restart libvirtd",
        view.svirt_key,
    )


def security_driver(view: HostView) -> Answer:
    """Say whether qemu.conf leaves AppArmor in place."""
    facts, settings = _settings(view)
    value = settings.get("security_driver")
    named = value if isinstance(value, list) else [] if value is None else [value]
    if value is None and facts.apparmor != "Y":
        return judged(
            False,
            "security_driver is not set: libvirt looks for a driver itself, and finds none here",
            f"first AppArmor in the kernel, then: {_set(settings, 'security_driver', _APPARMOR)}",
            view.svirt_key,
        )
    return judged(
        value is None or "apparmor" in named,
        f"security_driver is {_shown(value)}"
        + (": libvirt takes the driver that it finds" if value is None else ""),
        _set(settings, "security_driver", _APPARMOR),
        view.svirt_key,
    )


def require_confined(view: HostView) -> Answer:
    """Say whether libvirt refuses guests that nothing confines."""
    facts, settings = _settings(view)
    value = settings.get("security_require_confined")
    first = (
        "" if facts.apparmor == "Y" else "first AppArmor in the kernel, or libvirt starts no guest; then: "
    )
    return judged(
        value == 1,
        f"security_require_confined is {_shown(value)}" + (", which means 0" if value is None else ""),
        first + _set(settings, "security_require_confined", "1"),
        view.svirt_key,
    )


def seccomp(view: HostView) -> Answer:
    """Say whether QEMU's system calls are filtered."""
    facts, settings = _settings(view)
    value = settings.get("seccomp_sandbox")
    if not facts.seccomp:
        return judged(
            False,
            "the kernel has no seccomp (/proc/sys/kernel/seccomp)",
            "use the distribution's kernel",
        )
    return judged(
        value != 0,
        f"seccomp_sandbox is {_shown(value)}"
        + (", which means on" if value is None else "")
        + "; the kernel has seccomp",
        _set(settings, "seccomp_sandbox", "1"),
    )


def _settings(view: HostView) -> tuple[Facts, dict[str, Value]]:
    facts = learned(view.facts)
    if facts.qemu_conf is None:
        raise UnlearnedError(
            Unlearned(
                facts.qemu_conf_problem,
                "run it as root, or let sudo ask first: sudo -v && make doctor",
            )
        )
    try:
        return facts, parse(facts.qemu_conf)
    except HostError as error:
        raise UnlearnedError(
            Unlearned(str(error), f"mend {_FILE}; `man 5 qemu.conf` has no better")
        ) from None


def _shown(value: Value | None) -> str:
    return "not set" if value is None else repr(value).replace("'", '"')


def _set(settings: dict[str, Value], name: str, value: str) -> str:
    """Return the command that sets a setting; one that is there is replaced, for twice counts for nothing."""
    change = (
        f"sudo sed -i 's/^[ \\t]*{name}[ \\t]*=.*/{name} = {value}/' {_FILE}"
        if name in settings
        else f"echo '{name} = {value}' | sudo tee -a {_FILE}"
    )
    return f"{change} && sudo systemctl restart libvirtd"


CONFINEMENT: tuple[Check[HostView], ...] = (
    Check(
        id="apparmor.kernel",
        what="AppArmor in the kernel",
        means="domains that ask for AppArmor do not start; others are not confined at all",
        judge=in_kernel,
    ),
    Check(
        id="apparmor.libvirtd",
        what="libvirt's daemon is confined",
        means="libvirt gives no guest a profile: a broken QEMU reads other nodes' disks",
        judge=daemon_confined,
    ),
    Check(
        id="apparmor.secmodel",
        what="libvirt offers AppArmor",
        means='a domain that asks for it does not start ("Security driver model is not available")',
        judge=secmodel,
    ),
    Check(
        id="qemu_conf.security_driver",
        what="security_driver",
        means="sVirt is off for all guests of the host",
        judge=security_driver,
    ),
    Check(
        id="qemu_conf.require_confined",
        what="security_require_confined",
        means="a guest that asks for no confinement runs as the nodes' own user, and reads their disks",
        judge=require_confined,
    ),
    Check(
        id="qemu_conf.seccomp",
        what="seccomp around QEMU",
        means="a broken QEMU may start programs and change its privileges",
        judge=seccomp,
    ),
)
