"""A headless Chromium (Debian's), driven by its own chromedriver: nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MISSING: Final = (
    "the browser tests need chromium and chromedriver: Debian packages chromium and chromium-driver (`make test` "
    "installs them when it may; else: apt-get install chromium chromium-driver)"
)
_FLAGS: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--no-proxy-server", "--window-size=1360,800", "--hide-scrollbars", "--lang=en",
)  # fmt: skip
WITHIN_S: Final = 30.0
# Where screenshots go, if anywhere. Not a setting of ours: those are taken out of the environment.
SCREENSHOTS: Final = os.environ.get("SCREENSHOTS")


@dataclass(frozen=True, slots=True)
class Browser:
    """One window."""

    driver: Any

    def open(self, url: str) -> None:
        self.driver.get(url)

    @property
    def text(self) -> str:
        """What a person reads on the page."""
        return str(self.driver.find_element(By.TAG_NAME, "body").text)

    @property
    def source(self) -> str:
        """All of the page, the parts that do not show included."""
        return str(self.driver.page_source)

    def texts(self, css: str) -> list[str]:
        return [each.text for each in self.driver.find_elements(By.CSS_SELECTOR, css)]

    def click(self, css: str) -> None:
        """Click on what is there, or will be."""
        self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, css), f"{css} to click on")
        self.driver.find_element(By.CSS_SELECTOR, css).click()

    def type(self, css: str, text: str) -> None:
        field = self.driver.find_element(By.CSS_SELECTOR, css)
        field.clear()
        field.send_keys(text)

    def until(self, true: Callable[[], object], what: str, within_s: float = WITHIN_S) -> None:
        """Wait for what the page's scripts do; they may replace what is being looked at."""
        ignored = [StaleElementReferenceException]
        waiting = WebDriverWait(self.driver, within_s, poll_frequency=0.1, ignored_exceptions=ignored)
        waiting.until(lambda _: true(), f"not within {within_s:.0f} s: {what}; the page reads: {self.text}")

    def shoot(self, name: str) -> None:
        """Keep a picture of the window, if somebody wants them."""
        if SCREENSHOTS:
            folder = Path(SCREENSHOTS)
            folder.mkdir(parents=True, exist_ok=True)
            assert self.driver.save_screenshot(str(folder / f"{name}.png"))


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start a browser with a profile of its own; its log and the driver's are in the folder."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.fail(MISSING)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=driver, log_output=str(folder / "chromedriver.log"))
    try:
        opened = webdriver.Chrome(options=options, service=service)
    except WebDriverException as error:
        pytest.fail(
            f"Chromium did not start: {error.msg}\n{(folder / 'chromedriver.log').read_text()[-2000:]}"
        )
    try:
        opened.set_page_load_timeout(WITHIN_S)
        yield Browser(opened)
    finally:
        opened.quit()
