"A real browser for the tests: where it is, what happens without one, and where its pictures go."
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]
SCREENS = Path(__file__).resolve().parents[1] / "outputs/ui_screens"
WIDE, NARROW = dict(width=1280, height=900), dict(width=390, height=844)


@contextmanager
def browser():
    "Headless Chromium. Skips loudly where there is none, and fails in CI."
    if not CHROMIUM:
        if os.environ.get("CI") == "true": pytest.fail("CI must test the app in a browser: install chromium, or set CHROMIUM to its path")
        pytest.skip("NOT TESTED: the app in a browser (no chromium found; set CHROMIUM to its path)")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield b
        b.close()


def open_page(b, url, tab=None, size=WIDE, dark=False):
    "A new visitor's page, at a tab."
    page = b.new_page(viewport=size, color_scheme="dark" if dark else "light")
    page.goto(f"{url}?__theme={'dark' if dark else 'light'}")
    page.get_by_role("tab").first.wait_for(timeout=60_000)
    if tab: go(page, tab)
    return page


def go(page, tab):
    "Open a tab; on a narrow screen it may hide behind the dots."
    page.wait_for_timeout(200)
    found = page.get_by_role("tab", name=tab, exact=True)
    if found.count() and found.first.is_visible(): return found.first.click()
    page.get_by_role("button", name="More tabs").click()
    page.locator(".overflow-dropdown").get_by_text(tab, exact=True).click()


def shoot(page, name):
    "A picture of the whole page, for people to look at."
    SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENS / f"{name}.png"), full_page=True)


def fits(page) -> bool:
    "Is nothing wider than the screen?"
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")


def close_toasts(page):
    "They would lie over what the next picture shows."
    page.evaluate("document.querySelectorAll('.toast-close').forEach(b => b.click())")
    page.locator(".toast-body").first.wait_for(state="detached", timeout=10_000)


def fields_without_names(page) -> list:
    "Visible fields and buttons that a screen reader could not name."
    return page.evaluate("""() => [...document.querySelectorAll('input,textarea,select,button')].filter(e => e.offsetParent && !(e.labels && [...e.labels].some(l => l.innerText.trim()))
        && !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby') && !e.innerText.trim() && !e.title).map(e => e.outerHTML.slice(0, 160))""")


def pick(page, label, text):
    "Choose an entry of a dropdown."
    page.get_by_label(label, exact=True).locator("visible=true").first.click()
    page.get_by_role("option", name=text).first.click()
