"""QEMU's own messages that tests tell apart. The text is QEMU's, so it is looked for; ours never is."""

from __future__ import annotations

from harness.codes import Fields

NOT_SUPPORTED_BY_HOST = "Background-snapshot is not supported by host"
"""How QEMU's refusal begins where it finds no UFFD-WP (6.0 to 11.1, migration/options.c)."""

INCOMPATIBLE_MEMORY = "Background-snapshot is not compatible with guest memory configuration"
"""QEMU's refusal where the kernel has UFFD-WP and not for such memory (6.0 to 11.1, migration/options.c)."""

MESSAGES = {
    # util/yank.c yank_register_instance()
    "duplicate-yank": ("duplicate yank instance",),
    # The section's name in a message of migration/savevm.c; 11.1 has the next text in it as well
    "vhost-user-state": ("/vhost-user-",),
    # migration/vmstate.c vmstate_load_state(), hw/virtio/virtio.c virtio_load()
    "virtio-queue-size": ("Failed to load element of type virtio for virtio", "exceeds allocated max"),
    # migration/vmstate.c, migration/savevm.c: an instance's state; the number is that of the first CPU
    "cpu-state": ("error while loading state for instance 0x0 of device 'cpu'",),
    # The same of RAM: its list of RAMBlocks does not fit
    "ram-state": ("error while loading state for instance 0x0 of device 'ram'",),
    # migration/ram.c ram_save_setup(), since 9.1
    "setup-write-failed": ("ram_save_setup failed: Input/output error",),
    # util/userfaultfd.c
    "uffd-close-assertion": ("uffd_close_fd: Assertion",),
    # system/runstate.c runstate_set(), softmmu/runstate.c before 8.2
    "invalid-run-state": ("invalid runstate transition: ",),
    # system/memory.c memory_region_transaction_commit(), softmmu/memory.c before 8.2
    "lock-assertion": ("memory_region_transaction_commit: Assertion",),
    # hw/scsi/lsi53c895a.c lsi_pre_save()
    "lsi-assertion": ("lsi_pre_save: Assertion",),
    # block/io.c bdrv_co_write_req_prepare(): a write to an image that was given up for another QEMU
    "inactive-image": ("BDRV_O_INACTIVE)' failed", "child->perm & BLK_PERM_WRITE' failed"),
    # hw/acpi/acpi_generic_initiator.c, since 9.0; hw/acpi/pci.c since 10.0
    "invalid-numa-node": ("acpi-generic-initiator: Invalid NUMA node specified",),
    "incompatible-memory": ("not compatible with guest memory configuration",),
}
"""The messages by the name that known issues use (field `qemu_said`), each with its texts."""


_LOAD_FAILED = "load of migration failed"


def last_message(log: str) -> str:
    """Return QEMU's last message in its log.

    Up to 10.0 QEMU says which device it could not load in the line before, and both are one message.
    """
    lines = log.strip().splitlines()
    return "\n".join(lines[-2:] if lines and _LOAD_FAILED in lines[-1] else lines[-1:])


def said(words: str) -> Fields:
    """Return the field `qemu_said` for QEMU's words; empty where they hold none of MESSAGES."""
    for name, texts in MESSAGES.items():
        if any(text in words for text in texts):
            return {"qemu_said": name}
    return {}
