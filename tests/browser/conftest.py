"""Chromium for the tests of the page: no host can be reached, and what goes wrong is noted."""

import os
from contextlib import contextmanager

import pytest

#: Every name is unknown; the server of ``page --serve`` is an address.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    # Root, as in containers, has no sandbox to give.
    arguments = [OFFLINE, *(["--no-sandbox"] if os.getuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """A function that opens a page; at the end nothing was asked for and nothing went wrong."""
    faults, contexts = [], []

    def open_page(address, width=1440, scripts=True, **options):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, java_script_enabled=scripts, **options
        )
        contexts.append(context)
        page = context.new_page()
        is_served = address.startswith("http")
        page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else 0)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                None
                if request.is_navigation_request() or request.url.startswith("data:") or is_served
                else faults.append(request.url)
            ),
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def processor_seconds():
    """A context that says what a page's main thread worked in it, however busy the machine is."""

    @contextmanager
    def measured(page):
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})

        def total():
            metrics = session.send("Performance.getMetrics")["metrics"]
            return next(m["value"] for m in metrics if m["name"] == "TaskDuration")

        spent = [-total()]
        yield spent
        spent[0] += total()
        session.detach()

    return measured
