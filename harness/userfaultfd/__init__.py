"""userfaultfd from Python, with ctypes and nothing else.

The package needs Python 3.9 and the standard library, and imports nothing of snapproof but itself, by
relative names: its folder can be carried to any Linux host and used there. A unit test checks both.

Page faults in memory that was registered are told to a monitor, which resolves them: `Userfaultfd` is the
descriptor, `Region` memory to use it on, `read_pagemap` and `scan` look at pages from outside. A thread that
waits for a fault must not hold the interpreter's lock; see `libc`.

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
from .create import by_any, by_device, by_system_call, offered_features, shake_hands
from .descriptor import Userfaultfd
from .errors import FeatureMissing, UserfaultfdError
from .events import Event, Fork, PageFault, Remap, Remove, Unmap
from .libc import PAGE_BYTES
from .pagemap import Entry, Scan, protected_pages, read_pagemap, scan, scan_supported
from .probe import UserfaultfdSupport, probe_userfaultfd, refusal_reason
from .region import Region

__all__ = [
    "FEATURES",
    "FEATURE_SINCE",
    "PAGE_BYTES",
    "Entry",
    "Event",
    "FaultFlag",
    "Feature",
    "FeatureMissing",
    "Fork",
    "Mode",
    "PageFault",
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
    "offered_features",
    "probe_userfaultfd",
    "protected_pages",
    "read_pagemap",
    "refusal_reason",
    "scan",
    "scan_supported",
    "shake_hands",
]
