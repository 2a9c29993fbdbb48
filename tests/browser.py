"""Chromium without a screen, as pages are opened in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest

needs_browser = pytest.mark.skipif(
    find_spec("selenium") is None or which("chromium") is None or which("chromedriver") is None,
    reason="needs chromium, chromedriver and the package selenium",
)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


@contextmanager
def opened(page: Path, width: int, scheme: str = "light") -> Iterator:
    """A driver that shows a page from disk in a window of a width, without a network."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = which("chromium")
    for one in FLAGS:
        options.add_argument(one)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(which("chromedriver")))
    try:
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        preferred = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", preferred)
        driver.get(page.resolve().as_uri())
        yield driver
    finally:
        driver.quit()
