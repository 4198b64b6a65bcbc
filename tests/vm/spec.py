"""Contents of a virtual machine: the Debian release, its packages and the variants."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

SUITES = {12: "bookworm", 13: "trixie"}
ENGINES = {"docker": "docker.io", "containerd": "containerd"}
# A new machine, the three packages that README requires, and ssh.
_PACKAGES = (
    "apparmor",
    "ca-certificates",
    "dbus",
    "git",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "make",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd-sysv",
    "udev",
)
_KERNELS = {
    "cloud": ("initramfs-tools", "linux-image-cloud-amd64"),
    "generic": ("initramfs-tools", "linux-image-amd64"),
    "uml": (),  # outside of the machine, as a process
}
UML_PACKAGES = ("ethtool", "iproute2", "slirp4netns", "socat", "user-mode-linux")
"""Programs that start user-mode Linux, in a root folder of their own; the machine gets the kernel's modules."""
UML_ADDRESS = "10.0.2.15"
# Ubuntu 24.04 lets no unprivileged process make a user namespace: Debian's kernels by the first key, its own by the
# second. User-mode Linux has neither; there the number of such namespaces is limited to 0.
_NAMESPACE_SETTINGS = """\
-kernel.unprivileged_userns_clone = 0
-kernel.apparmor_restrict_unprivileged_userns = 1
"""
_NO_NAMESPACES = "user.max_user_namespaces = 0\n"
_UML_NETWORK = f"[Match]\nName=vec*\n\n[Network]\nAddress={UML_ADDRESS}/24\nGateway=10.0.2.2\nDNS=10.0.2.3\n"
_NETWORK = "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n"


@dataclass(frozen=True)
class MachineSpec:
    """One virtual machine: release, kernel, a container engine that runs beside, and Ubuntu's settings."""

    debian: int = 12
    kernel: str = "cloud"
    engines: tuple[str, ...] = ()
    ubuntu_like: bool = False

    @property
    def suite(self) -> str:
        return SUITES[self.debian]

    @property
    def packages(self) -> tuple[str, ...]:
        engines = tuple(ENGINES[engine] for engine in self.engines)
        resolver = ("systemd-resolved",) if self.ubuntu_like else ()
        return (*_PACKAGES, *_KERNELS[self.kernel], *engines, *resolver)

    @property
    def files(self) -> dict[str, str]:
        """Return files of the root folder by path: the answers that an installer would write."""
        uml = self.kernel == "uml"
        disk = "ubda" if uml else "vda"
        files = {
            "etc/hostname": f"debian{self.debian}\n",
            "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 debian{self.debian}\n",
            "etc/fstab": f"/dev/{disk} / ext4 defaults 0 1\nLABEL=home /root ext4 defaults 0 2\n",
            "etc/systemd/network/user.network": _UML_NETWORK if uml else _NETWORK,
        }
        if self.ubuntu_like:
            settings = _NO_NAMESPACES if uml else _NAMESPACE_SETTINGS
            return {**files, "etc/sysctl.d/60-namespaces.conf": settings}
        return {**files, "etc/resolv.conf": "nameserver 10.0.2.3\n"}

    def key(self) -> str:
        """Return a key that changes with every input of the root file system."""
        return hashlib.sha256(repr((self, self.packages, self.files)).encode()).hexdigest()[:12]
