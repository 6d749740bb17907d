"""Avocado tests of attaching to a VM that somebody else runs."""

from tests_functional.attach.libvirt import (
    foreign_in_libvirt,
    killed_in_libvirt,
    planted_in_libvirt,
    proven_in_libvirt,
    restarted_in_libvirt,
)
from tests_functional.attach.libvirt_again import again_in_libvirt
from tests_functional.attach.libvirt_flows import libvirt_flows
from tests_functional.attach.libvirt_linux import linux_in_libvirt, planted_linux, unpinned_disk
from tests_functional.attach.libvirt_through import through_libvirt
from tests_functional.attach.owner import owner_acts
from tests_functional.attach.scenario import (
    attach_again_and_again,
    foreign_writer,
    hidden_process,
    killed_at_each_instant,
    planted_fault,
)
from tests_functional.lib.avocado_test import SnapshotTest


class Attach(SnapshotTest):
    """A VM that runs already is proven over its monitor, and is afterwards as it was before."""

    def test_again_and_again(self) -> None:
        """The VM is proven many times in a row and has each time its state, settings and files of before."""
        self.judge(attach_again_and_again(int(self.option("times"))))

    def test_killed(self) -> None:
        """Killed at any instant, the command or its guard leaves no VM stopped or with the capability on."""
        self.judge(killed_at_each_instant)

    def test_planted_fault(self) -> None:
        """Pages that the VM's QEMU does not protect are seen and named."""
        self.judge(planted_fault)

    def test_hidden_process(self) -> None:
        """Where QEMU's process cannot be seen, QEMU's own dump of guest memory is the golden image."""
        self.judge(hidden_process)

    def test_planted_fault_of_hidden_process(self) -> None:
        """The golden image that QEMU has dumped shows pages that are not protected."""
        self.judge(lambda run: planted_fault(run, hidden=True))

    def test_foreign_writer(self) -> None:
        """A device whose other side writes guest RAM by itself is told before anything is saved."""
        self.judge(foreign_writer)

    def test_owner_acts(self) -> None:
        """What the VM's owner changes while it is saved is told, and not blamed on the snapshot."""
        self.judge(owner_acts)

    def test_libvirt(self) -> None:
        """A domain of libvirt is proven by one command, and libvirt finds it as it was."""
        self.judge(proven_in_libvirt(self.option("libvirt"), self.option("user")))

    def test_libvirt_through(self) -> None:
        """Libvirt restores the snapshot of a domain beside it, and nothing of that is left."""
        self.judge(through_libvirt(self.option("libvirt"), self.option("user")))

    def test_libvirt_again(self) -> None:
        """A domain that is proven many times in a row is afterwards as it was before the first."""
        self.judge(again_in_libvirt(self.option("libvirt"), int(self.option("times"))))

    def test_libvirt_linux(self) -> None:
        """A domain with a Linux guest is proven, and libvirt finds it as it was."""
        self.judge(linux_in_libvirt(self.option("libvirt"), self.option("user")))

    def test_libvirt_linux_planted(self) -> None:
        """Pages that the QEMU of a domain with a Linux guest does not protect are seen and named."""
        self.judge(planted_linux(self.option("libvirt")))

    def test_libvirt_unpinned(self) -> None:
        """A restored guest whose disk has the content of a later time notices that."""
        self.judge(unpinned_disk(self.option("libvirt")))

    def test_libvirt_planted(self) -> None:
        """Pages that the QEMU of a domain does not protect are seen and named."""
        self.judge(planted_in_libvirt(self.option("libvirt")))

    def test_libvirt_foreign_writer(self) -> None:
        """A domain's disk whose other side writes guest RAM by itself is told before anything is saved."""
        self.judge(foreign_in_libvirt(self.option("libvirt")))

    def test_libvirt_killed(self) -> None:
        """Killed at any instant, the command or its guard leaves no domain stopped or set."""
        self.judge(killed_in_libvirt(self.option("libvirt")))

    def test_libvirt_restarted(self) -> None:
        """A domain is as it was, though libvirtd was restarted in the middle of its save."""
        self.judge(restarted_in_libvirt(self.option("libvirt")))

    def test_libvirt_flows(self) -> None:
        """What libvirt itself saves of a domain is the guest at one T0, or libvirt refuses to save it."""
        self.judge(libvirt_flows(self.option("libvirt")))
