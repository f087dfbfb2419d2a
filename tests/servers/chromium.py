"""The Chromium that tests drive, see tests/browser. It is found, and never downloaded."""

from __future__ import annotations

import shutil

from tests.servers.process import Absent


def find() -> tuple[str, str]:
    """The paths of the browser and of its driver; raises Absent."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        missing = "chromedriver" if binary else "chromium"
        raise Absent(f"no {missing} is installed (packages chromium and chromium-driver)")
    return binary, driver
