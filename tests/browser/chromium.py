"""Debian's chromium, driven by selenium: what a page shows, asks the network for, and complains of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE = 180.0
"""Seconds that a page may take to show something on a busy machine."""

PROGRAMS = ("chromium", "chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--force-device-scale-factor=1", "--lang=en-US",
    # Whatever a page asks for, nothing leaves this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
NO_JAVASCRIPT = {"profile.managed_default_content_settings.javascript": 2}
T = TypeVar("T")


def absent() -> list[str]:
    """Programs that these tests need and this machine does not have."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Browser:
    """One window with a profile of its own in `folder`."""

    def __init__(self, folder: Path, *, javascript: bool = True) -> None:
        options = Options()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"):
            options.add_argument(flag)
        if not javascript:
            options.add_experimental_option("prefs", NO_JAVASCRIPT)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = Service(shutil.which("chromedriver"), log_output=str(folder / "chromedriver.log"))
        self.driver = webdriver.Chrome(options, service)
        self.driver.set_page_load_timeout(PATIENCE)
        self.open("about:blank")
        self.requests()  # of the page that chromium starts with

    def open(self, address: str) -> None:
        self.driver.get(address)

    def close(self) -> None:
        self.driver.quit()

    def until(self, look: Callable[[], T], what: str) -> T:
        """What `look` returns once it is something. Raises TimeoutException with `what`."""
        ignored = (NoSuchElementException, StaleElementReferenceException)
        wait = WebDriverWait(self.driver, PATIENCE, ignored_exceptions=ignored)
        return wait.until(lambda _: look(), f"{what} at {self.driver.current_url}")

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        """The first that is shown, waited for."""
        return self.until(lambda: next((e for e in self.all(css) if e.is_displayed()), None), f"no {css}")

    def saying(self, text: str, css: str = "*") -> WebElement:
        """The innermost shown element with exactly this text, waited for."""
        return self.until(lambda: self._saying(text, css), f"nothing says {text!r}")

    def _saying(self, text: str, css: str) -> WebElement | None:
        found = self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[1])].filter(e =>"
            " e.textContent.trim() === arguments[0] && e.getClientRects().length)",
            text, css,
        )  # fmt: skip
        return found[-1] if found else None

    def text(self, css: str = "body") -> str:
        """With line breaks as shown."""
        return self.one(css).text

    def linked(self, text: str) -> WebElement:
        """The first shown link whose text begins like that, waited for."""
        links = lambda: (e for e in self.all("a") if e.text.startswith(text) and e.is_displayed())  # noqa: E731
        return self.until(lambda: next(links(), None), f"no link says {text!r}")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def prefer(self, scheme: str) -> None:
        """The reader's setting: "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def resize(self, width: int | None) -> None:
        """What the page takes for the window's width, in CSS pixels; None for what it is."""
        if width is None:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        else:
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last look."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = (m["params"] for m in messages if m["method"] == "Network.requestWillBeSent")
        return [one["request"]["url"] for one in sent]

    def complaints(self) -> list[str]:
        """Errors on the console since the last look: of scripts, of the network, of the security policy."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def picture(self, path: Path) -> None:
        """The window as a PNG."""
        self.driver.save_screenshot(str(path))
