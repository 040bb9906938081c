"""A browser without a window, for the pages that cmkd writes."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser")


def dumped(page, folder, *options, milliseconds):
    """Return a page as it is after some time, and what the browser logged."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--virtual-time-budget={milliseconds}"]
    command += ["--enable-logging=stderr", "--v=0", *options, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    return done.stdout, done.stderr


def on_narrow_and_wide(page, look, folder, *, milliseconds):
    """Return what `look`, JavaScript's `(page, window) => ...`, says of a page of 400 and of 1400 pixels.

    It is asked 3 seconds before the time is over.
    """
    frames = [f'<iframe src="{page.as_uri()}" style="width: {w}px; border: 0"></iframe>' for w in (400, 1400)]
    script = f"""addEventListener("load", () => setTimeout(() => {{
      document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(
        (frame) => ({look})(frame.contentDocument, frame.contentWindow)));
    }}, {milliseconds - 3000}))"""
    outer = folder / "frames.html"
    outer.write_text(f"<title></title>{''.join(frames)}<script>{script}</script>", encoding="utf-8")
    seen, logged = dumped(outer, folder, "--allow-file-access-from-files", milliseconds=milliseconds)
    return *json.loads(html.unescape(re.search(r"<title>(.*?)</title>", seen)[1])), logged
