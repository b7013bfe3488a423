from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MARK = "needle-of-the-rendered-config"  # stands for a secret in the config


@dataclass
class Keys:
    client: Path
    host: Path
    known_hosts: Path

    @property
    def login(self) -> dict[str, Path]:
        return {"key": self.client, "known_hosts": self.known_hosts}
