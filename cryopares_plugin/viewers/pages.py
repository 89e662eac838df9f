"""Pages for the web browser."""

import webbrowser
from pathlib import Path

from cryopares_core.plots.report import write_report

TEXT_BROWSERS = ("w3m", "lynx", "links", "elinks", "www-browser")


def open_page(address: str) -> str:
    """Open a page in the user's web browser; a sentence with the address where there is no browser with windows."""
    try:
        browser = webbrowser.get()
        if getattr(browser, "basename", "") not in TEXT_BROWSERS and browser.open_new_tab(address):
            return ""
    except webbrowser.Error:
        pass
    return f"No web browser was found on this machine. Open this yourself:\n{address}"


def report_page(folder: str) -> str:
    """The address of a run's report, which is written anew where the run has gone on since, or has none.

    Raises OSError where the folder cannot be written to and has no report.
    """
    report = Path(folder) / "report.html"
    newest = max((path.stat().st_mtime for path in Path(folder).glob("*/metrics.jsonl")), default=0.0)
    if not report.exists() or report.stat().st_mtime < newest:
        try:
            write_report(folder)
        except OSError:
            if not report.exists():
                raise
    return report.absolute().as_uri()
