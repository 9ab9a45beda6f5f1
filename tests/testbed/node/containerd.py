"""The container runtime: its configuration and its network plugins."""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.node import image_store
from tests.testbed.node.addresses import ADDRESS, BRIDGE, FIRST_POD, LAST_POD, PODS
from tests.testbed.node.commands import Commands
from tests.testbed.node.image_store import ImageStore
from tests.testbed.node.images import PAUSE
from tests.testbed.node.machine import RUN

SOCKET = RUN / "containerd.sock"
NOWHERE = "http://127.0.0.1:9"
"""Where images would be pulled from: nobody answers there, so an absent image is an error at once."""


@dataclass(frozen=True)
class Containerd:
    """One that is configured in a folder."""

    folder: Path
    commands: Commands

    @property
    def command(self) -> list[str]:
        return [self.commands["containerd"], "--config", str(self.folder / "containerd.toml")]

    @property
    def environment(self) -> dict[str, str]:
        """It looks for its shim in PATH."""
        shim = Path(self.commands["containerd-shim-runc-v2"]).parent
        return {"PATH": f"{shim}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

    def configure(self) -> None:
        (self.folder / "containerd.toml").write_text(self._configuration())
        hosts = self.folder / "registries" / "_default" / "hosts.toml"
        hosts.parent.mkdir(parents=True, exist_ok=True)
        hosts.write_text(f'server = "{NOWHERE}"\n[host."{NOWHERE}"]\ncapabilities = ["pull", "resolve"]\n')
        networks = self.folder / "networks"
        networks.mkdir(exist_ok=True)
        (networks / "tunesmith.conflist").write_text(json.dumps(network_list()))

    @property
    def images(self) -> ImageStore:
        return ImageStore(self.commands, SOCKET)

    def _configuration(self) -> str:
        return f"""{image_store.configuration(SOCKET, image_store.UNUSED_PLUGINS)}\
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{PAUSE}'
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '{self.folder}/registries'
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true  # a machine may withhold the capability that lowers it
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['{self.commands.plugins}']
  conf_dir = '{self.folder}/networks'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = '{self.commands["runc"]}'
  SystemdCgroup = false
"""


def network_list() -> dict[str, object]:
    """Every pod on the bridge, with the node's address as its way out."""
    subnet = {"subnet": PODS, "gateway": ADDRESS, "rangeStart": FIRST_POD, "rangeEnd": LAST_POD}
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[subnet]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    return {"cniVersion": "1.0.0", "name": "tunesmith", "plugins": [bridge]}
