"""A demo that runs, and a Chromium that looks at it: one of each for all tests in here."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests import servers
from tests.demo import Demo, wait_until
from tests.keeper import keeper
from tests.servers import chromium

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # as root it does not start otherwise
    "--disable-gpu",
    "--disable-dev-shm-usage",  # which is small in containers
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """Chromium on the demo site."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, path: str) -> None:
        self.driver.get(self.url + path)

    @contextmanager
    def seen_as(self, width: int, scheme: str) -> Iterator[None]:
        """A window of this width, for somebody who likes it light or dark."""
        emulate = self.driver.execute_cdp_cmd
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        feature = {"name": "prefers-color-scheme", "value": scheme}
        emulate("Emulation.setDeviceMetricsOverride", size)
        emulate("Emulation.setEmulatedMedia", {"features": [feature]})
        try:
            yield
        finally:
            emulate("Emulation.clearDeviceMetricsOverride", {})
            emulate("Emulation.setEmulatedMedia", {"features": []})

    def log_in(self, name: str = "demo") -> None:
        self.open("login/")
        self.fill("username", name)
        self.fill("password", "demo")
        self.click("form.stack button")
        wait_until(lambda: self.has("[action='/logout/']"))

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def has(self, selector: str) -> bool:
        return bool(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        # In one step: between two, a part of the page may be replaced by a newer one.
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        found: list[str] = self.run(script, selector)
        return found

    def click(self, selector: str) -> None:
        # What has the focus is not replaced by a newer one.
        self.run("document.querySelector(arguments[0])?.focus()", selector)
        self.find(selector).click()

    def fill(self, name: str, value: str) -> None:
        field = self.find(f"[name={name}]")
        field.clear()
        field.send_keys(value)

    def wait_for_text(self, selector: str, text: str) -> None:
        wait_until(lambda: text in self.text(selector), timeout=15)
        assert text in self.text(selector)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def go_offline(self, offline: bool) -> None:
        conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions", {"offline": offline, **conditions}
        )

    def hurdles(self) -> list[str]:
        """What axe finds serious on the page, for who uses it by keyboard or screen reader."""
        source = files("axe_core_python").joinpath("axe.min.js").read_text()
        self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": source})
        found = self.driver.execute_async_script(
            "axe.run('#content').then(arguments[0], error => arguments[0](String(error)))"
        )
        assert isinstance(found, dict), found
        assert found["passes"]
        return [
            f"{each['id']}: {each['nodes'][0]['html'][:200]}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]

    def errors(self) -> list[str]:
        """What the console has since the last call."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] != "INFO"
            and "/favicon.ico" not in entry["message"]  # Django's admin names no icon
        ]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    if "chromium" in servers.absent:
        pytest.skip(f"no chromium: {servers.absent['chromium']}")
    demo = Demo(tmp_path_factory.mktemp("demo") / "data")
    demo.wait_for("Ctrl-C ends")
    yield demo
    keeper().end(demo.process, signal.SIGINT)


@pytest.fixture(scope="session")
def driver(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    binary, path = chromium.find()
    options = Options()
    options.binary_location = binary
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=path))
    yield driver
    driver.quit()


@pytest.fixture
def browser(demo: Demo, driver: webdriver.Chrome) -> Iterator[Browser]:
    """Logged in, on a wide window. No page may leave an error in the console."""
    browser = Browser(driver, demo.wait_for(r"http://\S+")[0])
    driver.set_window_size(1280, 900)
    browser.open("login/")
    if not browser.has("[action='/logout/']"):
        browser.log_in()
    yield browser
    assert browser.errors() == []


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where screenshots go, by name: into WRITEBEHIND_SCREENSHOTS, for people to look at."""
    directory = Path(os.environ.get("WRITEBEHIND_SCREENSHOTS") or tmp_path_factory.mktemp("shots"))
    directory.mkdir(parents=True, exist_ok=True)
    return lambda name: directory / f"{name}.png"
