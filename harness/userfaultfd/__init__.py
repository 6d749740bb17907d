"""Use userfaultfd(2) from Python, by ctypes alone.

The package needs Python 3.9 and the standard library, and imports no other module of snapproof, so its folder
can be copied to any Linux host and used there. Imports inside it are relative. A unit test checks both.

The kernel reports page faults in registered memory to a monitor, which resolves them. `Userfaultfd` is the
descriptor, `Region` is memory to use it on, and `read_pagemap` and `scan` read the state of pages. A thread
that waits for a fault must not hold the GIL; see `libc`.

    with Region.anonymous(1 << 20) as region, Userfaultfd(Feature.PAGEFAULT_FLAG_WP) as uffd:
        region.fill(0)
        uffd.register(region.address, region.length, Mode.WP)
        uffd.write_protect(region.address, region.length)
        threading.Thread(target=region.store, args=(0, b"late")).start()
        for event in uffd.read_events(timeout=1):
            save(region.load(0, PAGE_BYTES))
            uffd.write_protect(event.address, PAGE_BYTES, protect=False)
"""

from __future__ import annotations

from .abi import FEATURE_SINCE, FEATURES, FaultFlag, Feature, Mode, feature_names
from .create import by_any, by_device, by_system_call, handshake, offered_features
from .descriptor import Userfaultfd
from .errors import FeatureMissing, UserfaultfdError
from .events import Event, Fork, PageFault, Remap, Remove, Unmap
from .libc import PAGE_BYTES
from .pagemap import PagemapEntry, Scan, protected_pages, read_pagemap, scan, scan_supported
from .probe import UserfaultfdSupport, probe_userfaultfd, refusal_reason
from .region import Region

__all__ = [
    "FEATURES",
    "FEATURE_SINCE",
    "PAGE_BYTES",
    "Event",
    "FaultFlag",
    "Feature",
    "FeatureMissing",
    "Fork",
    "Mode",
    "PageFault",
    "PagemapEntry",
    "Region",
    "Remap",
    "Remove",
    "Scan",
    "Unmap",
    "Userfaultfd",
    "UserfaultfdError",
    "UserfaultfdSupport",
    "by_any",
    "by_device",
    "by_system_call",
    "feature_names",
    "handshake",
    "offered_features",
    "probe_userfaultfd",
    "protected_pages",
    "read_pagemap",
    "refusal_reason",
    "scan",
    "scan_supported",
]
