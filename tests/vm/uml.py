"""A machine in user-mode Linux: a Linux kernel that is a process of this machine and needs no KVM.

Its kernel and slirp4netns are Debian packages in a root folder of their own (images.py), and run in namespaces. So
nothing is installed on this machine, and the end of one process ends them all.
"""

from __future__ import annotations

from pathlib import Path

from tests.vm import guest
from tests.vm.images import RootImage, vm_dir
from tests.vm.spec import UML_ADDRESS

MEMORY = "6G"
_CPUINFO = Path("/proc/cpuinfo")

# In a mount and a PID namespace of their own. $1: root folder of the programs, $2: folder of the disks, $3: script for
# chroot, $4: console, $5: port on loopback that leads to ssh; then the command line of the kernel.
_ENTER = """
host=$1 disks=$2 script=$3
shift 3
mkdir -p "$host/vm"
mount -t proc proc "$host/proc"
mount --rbind /dev "$host/dev"
mount -t tmpfs tmpfs "$host/run"
mount --bind "$disks" "$host/vm"
cat /etc/resolv.conf >"$host/etc/resolv.conf"
exec chroot "$host" env PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/dev/shm sh -ec "$script" sh "$@"
"""

# slirp4netns has the network of qemu, 10.0.2.0/24, behind tap0. The guest has an address of that network behind a
# device of its own. The kernel answers ARP for each side on the other one (proxy_arp), so no firewall rule is needed.
# Without `touch` slirp4netns might make its device before the namespace exists, and so on this machine.
_RUN = f"""
console=$1 port=$2
shift 2
rm -f /vm/*.cow
unshare --net sh -ec '
  touch /run/namespace
  ip link set lo up
  ip tuntap add guest mode tap
  ip link set guest up
  ethtool -K guest tx off sg off tso off gso off gro off
  echo 1 >/proc/sys/net/ipv4/ip_forward
  echo 1 >/proc/sys/net/ipv4/conf/all/proxy_arp
  until ip -4 address show tap0 2>/dev/null | grep -q inet; do sleep 0.1; done
  ip route add {UML_ADDRESS}/32 dev guest
  exec "$@"
' sh "$@" >>"/vm/${{console##*/}}" &
kernel=$!
until [ -e /run/namespace ]; do sleep 0.1; done
slirp4netns --configure --mtu=1500 --api-socket=/run/slirp.sock $kernel tap0 &
until [ -S /run/slirp.sock ]; do sleep 0.1; done
printf '{{"execute": "add_hostfwd", "arguments": {{"proto": "tcp", "host_addr": "127.0.0.1", "host_port": %s,
  "guest_addr": "{UML_ADDRESS}", "guest_port": 22}}}}' "$port" | socat - UNIX-CONNECT:/run/slirp.sock
wait $kernel
"""


def works_here() -> bool:
    """Return True if the kernels of Debian 12 and 13 can run as a process on this processor.

    They save and restore registers of a fixed size. Where the processor has AMX, Linux accepts only a larger size, and
    the guest's first process ends with "put_fp_registers".
    """
    return "amx_tile" not in _CPUINFO.read_text().split()


def start(image: RootImage, home: Path) -> guest.Guest:
    """Boot a machine and wait until ssh answers. The disks' files do not change."""

    def command(port: int, console: Path) -> list[str]:
        disks = [f"/vm/{disk.relative_to(vm_dir())}" for disk in (image.disk, home)]
        return [
            "unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "sh", "-ec", _ENTER, "sh",
            str(image.programs), str(vm_dir()), _RUN, str(console), str(port),
            "linux.uml", f"mem={MEMORY}", f"ubd0=/vm/root.cow,{disks[0]}", f"ubd1=/vm/home.cow,{disks[1]}",
            "root=/dev/ubda", "rw", "apparmor=1", "security=apparmor", "con=null", "con0=null,fd:1",
            "vec0:transport=tap,ifname=guest,mac=52:54:00:12:34:56",
        ]  # fmt: skip

    return guest.boot(command, "uml")
