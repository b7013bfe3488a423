"""The Go programs that setup provides: which version of what, and how each is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

RECIPES = Path(__file__).resolve().parent / "go"


@dataclass(frozen=True, kw_only=True)
class ModuleFile:
    """A file that a program needs beside it, taken out of a module that a recipe folder pins."""

    folder: str
    module: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program: its exact version, its recipe, and how to tell that a found one is the right one."""

    name: str
    version: str
    folder: str
    package: str = "."
    ldflags: tuple[str, ...] = ()
    cgo: bool = False
    # Arguments that make it print its version; None: it cannot, and is only taken from beside `pulumi`.
    version_arguments: tuple[str, ...] | None = ("--version",)
    # False: only our own build will do.
    from_path: bool = True
    extra: ModuleFile | None = None
    recipes: Path = field(default=RECIPES)

    @property
    def recipe(self) -> Path:
        """Return the folder with the pinned module and our sources."""
        return self.recipes / self.folder

    @property
    def plugin(self) -> str | None:
        """Return the name of the plugin folder that Pulumi would install this program into."""
        kind, _, name = self.name.removeprefix("pulumi-").partition("-")
        return f"resource-{name}-v{self.version}" if kind == "resource" else None


_IGNITION = "github.com/coreos/ignition/v2/internal"

PROGRAMS: tuple[Program, ...] = (
    Program(
        name="butane",
        version="0.25.0",
        folder="butane",
        package="github.com/coreos/butane/internal",
        ldflags=("-X github.com/coreos/butane/internal/version.Raw=0.25.0",),
    ),
    Program(
        name="pulumi-language-python",
        version="3.75.0",
        folder="pulumi-language-python",
        package="github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python",
        version_arguments=None,
        # The launcher must be as new as the Python SDK, the host itself need not be.
        extra=ModuleFile(
            folder="pulumi",
            module="github.com/pulumi/pulumi/sdk/v3",
            path="python/cmd/pulumi-language-python-exec",
        ),
    ),
    Program(
        name="pulumi-resource-libvirt",
        version="0.5.4",
        folder="pulumi-resource-libvirt",
        version_arguments=("-version",),
    ),
    Program(
        name="pulumi",
        version="3.259.0",
        folder="pulumi",
        package="github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
        # The Automation API refuses an engine without a version.
        ldflags=("-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v3.259.0",),
        version_arguments=("version",),
    ),
    Program(
        name="pulumi-resource-random",
        version="4.21.4",
        folder="pulumi-resource-random",
        version_arguments=("-version",),
    ),
    Program(
        name="pulumi-resource-command",
        version="1.2.1",
        folder="pulumi-resource-command",
        version_arguments=("-version",),
    ),
    Program(
        name="ignition",
        version="2.20.0",
        folder="ignition",
        package=_IGNITION,
        # The practice image has no SELinux; Ignition links against libblkid.
        ldflags=(f"-X {_IGNITION}/version.Raw=2.20.0", f"-X {_IGNITION}/distro.selinuxRelabel=false"),
        cgo=True,
        from_path=False,
    ),
    Program(
        name="ignition-validate",
        version="2.20.0",
        folder="ignition",
        package="github.com/coreos/ignition/v2/validate",
        ldflags=(f"-X {_IGNITION}/version.Raw=2.20.0",),
    ),
    Program(
        name="talosctl",
        version="1.13.0",
        folder="talosctl",
        package="github.com/siderolabs/talos/cmd/talosctl",
        version_arguments=("version", "--client", "--short"),
    ),
)

# Built by the tests that need them, or by name; a user's setup never waits for these.
TEST_PROGRAMS: tuple[Program, ...] = (
    Program(name="talos-standin", version="1.13.0", folder="talos-standin", from_path=False),
)


def by_name(names: list[str]) -> list[Program]:
    """Return the programs of these names, a user's when none are given; an unknown name is a ValueError."""
    known = {program.name: program for program in (*PROGRAMS, *TEST_PROGRAMS)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown program {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] if names else list(PROGRAMS)
