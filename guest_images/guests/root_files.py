"""Files of a full guest that no package has, since maintainer scripts write them: accounts, keys, units."""

from __future__ import annotations

from collections.abc import Mapping

from guest_images.guests.ssh_keys import GuestKeys

MASKED_UNITS = (
    # A guest that runs for minutes needs none of these, and each takes time of an emulated CPU at boot.
    "dev-mqueue.mount", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "getty-static.service", "getty@.service", "kmod-static-nodes.service", "ldconfig.service",
    "proc-sys-fs-binfmt_misc.automount", "serial-getty@.service", "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-binfmt.service",
    "systemd-firstboot.service", "systemd-hwdb-update.service", "systemd-journal-catalog-update.service",
    "systemd-machine-id-commit.service", "systemd-modules-load.service", "systemd-pcrmachine.service",
    "systemd-pcrphase-sysinit.service", "systemd-pcrphase.service", "systemd-random-seed.service",
    "systemd-tmpfiles-clean.timer", "systemd-update-utmp.service",
)  # fmt: skip

# Name, uid, gid, home and shell. Users of base-passwd, and of sysusers.d of dbus, openssh-server and systemd.
_USERS = (
    ("root", 0, 0, "/root", "/bin/bash"),
    ("daemon", 1, 1, "/usr/sbin", "/usr/sbin/nologin"),
    ("man", 6, 12, "/var/cache/man", "/usr/sbin/nologin"),
    ("mail", 8, 8, "/var/mail", "/usr/sbin/nologin"),
    ("nobody", 65534, 65534, "/nonexistent", "/usr/sbin/nologin"),
    ("messagebus", 990, 990, "/nonexistent", "/usr/sbin/nologin"),
    ("sshd", 991, 65534, "/run/sshd", "/usr/sbin/nologin"),
    ("systemd-network", 998, 998, "/", "/usr/sbin/nologin"),
    ("tester", 1000, 1000, "/home/tester", "/bin/bash"),
)
_GROUPS = {
    "root": 0, "daemon": 1, "adm": 4, "tty": 5, "disk": 6, "lp": 7, "mail": 8, "man": 12, "kmem": 15,
    "dialout": 20, "cdrom": 24, "tape": 26, "sudo": 27, "audio": 29, "shadow": 42, "utmp": 43, "video": 44,
    "staff": 50, "users": 100, "systemd-journal": 999, "systemd-network": 998, "input": 997, "sgx": 996,
    "clock": 995, "kvm": 994, "render": 993, "messagebus": 990, "tester": 1000, "nogroup": 65534,
}  # fmt: skip

GROUP_OF = {"shadow": _GROUPS["shadow"], "mail": _GROUPS["mail"]}
TESTER = 1000
"""User and group id of `tester`, an ordinary user who may use sudo."""

ROOT_FOLDERS = ("var/log/journal",)
"""Folders to add. With this one the journal is on the disk, as after an installation."""

_PAM = "{kind}\t[success=1 default=ignore]\tpam_unix.so{options}\n{kind}\trequisite\tpam_deny.so\n"
_PAM_SESSION = "session\trequired\tpam_permit.so\nsession\trequired\tpam_unix.so\n"

_NETWORK = """\
[Match]
Type=ether

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
"""

_SSHD = """\
# As the package's sshd_config, but with keys only and with one host key.
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
KbdInteractiveAuthentication no
UsePAM yes
PrintMotd no
Subsystem sftp /usr/lib/openssh/sftp-server
"""


def root_files(keys: GuestKeys) -> Mapping[str, tuple[int, int, int, bytes]]:
    """Return the files to add to the unpacked packages: mode, user id, group id and content by path."""
    text = {
        "etc/passwd": "".join(f"{n}:x:{u}:{g}:{n}:{home}:{shell}\n" for n, u, g, home, shell in _USERS),
        "etc/group": "".join(
            f"{name}:x:{gid}:{'tester' if name == 'sudo' else ''}\n" for name, gid in _GROUPS.items()
        ),
        "etc/hostname": "guest\n",
        "etc/hosts": "127.0.0.1\tlocalhost\n127.0.1.1\tguest\n",
        "etc/fstab": "/dev/vda / ext4 errors=remount-ro 0 1\n",
        "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
        "etc/resolv.conf": "nameserver 10.0.2.3\n",
        "etc/environment": "",
        "etc/shells": "/bin/sh\n/bin/bash\n",
        "etc/ssh/sshd_config": _SSHD,
        "etc/ssh/ssh_host_ed25519_key.pub": f"{keys.host_line}\n",
        "etc/systemd/network/80-wired.network": _NETWORK,
        "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
        # An empty one means a first boot to systemd, at which it asks questions and enables units.
        "etc/machine-id": "5a4e8f0c1d2b4c6f9e7d3b1a0f8c6e42\n",
        # systemd compares their time with that of /usr; as they are, no unit with ConditionNeedsUpdate runs.
        "etc/.updated": "",
        "var/.updated": "",
        "etc/pam.d/common-auth": _PAM.format(kind="auth", options="") + "auth\trequired\tpam_permit.so\n",
        "etc/pam.d/common-account": _PAM.format(kind="account", options="")
        + "account\trequired\tpam_permit.so\n",
        "etc/pam.d/common-password": _PAM.format(kind="password", options=" yescrypt")
        + "password\trequired\tpam_permit.so\n",
        "etc/pam.d/common-session": _PAM_SESSION,
        "etc/pam.d/common-session-noninteractive": _PAM_SESSION,
    }
    shadow = "".join(f"{name}:*:19000:0:99999:7:::\n" for name, *_ in _USERS).encode()
    login = f"{keys.user_line}\n".encode()
    return {
        **{path: (0o644, 0, 0, content.encode()) for path, content in text.items()},
        "etc/shadow": (0o640, 0, GROUP_OF["shadow"], shadow),
        "etc/gshadow": (0o640, 0, GROUP_OF["shadow"], b""),
        "etc/sudoers.d/tester": (0o440, 0, 0, b"tester ALL=(ALL) NOPASSWD: ALL\n"),
        "etc/ssh/ssh_host_ed25519_key": (0o600, 0, 0, keys.host_openssh),
        "root/.ssh/authorized_keys": (0o600, 0, 0, login),
        "home/tester/.ssh/authorized_keys": (0o600, TESTER, TESTER, login),
    }


def root_links() -> Mapping[str, str]:
    """Return the symbolic links to add: target by path."""
    wanted = "etc/systemd/system/multi-user.target.wants"
    units = "/usr/lib/systemd/system"
    return {
        "etc/mtab": "/proc/mounts",
        "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
        "usr/bin/awk": "mawk",
        "etc/systemd/system/default.target": f"{units}/multi-user.target",
        f"{wanted}/ssh.service": f"{units}/ssh.service",
        f"{wanted}/systemd-networkd.service": f"{units}/systemd-networkd.service",
        "etc/systemd/system/dbus-org.freedesktop.network1.service": f"{units}/systemd-networkd.service",
        **{f"etc/systemd/system/{unit}": "/dev/null" for unit in MASKED_UNITS},
    }
