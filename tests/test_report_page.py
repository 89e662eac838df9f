"""The report of a real run in a real browser: it fetches nothing, nothing on it is broken or cut off, and it has all its parts."""

import html
import json
import re
import shutil
import subprocess

import pytest
from runs import TrainingProcess, folder_of_particles, run_words

from cryopares_core.plots.records import read_run

pytestmark = pytest.mark.timeout(180)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
NOBODY = "127.0.0.1:1"  # no proxy answers there
PARTS = [
    "What was trained",
    "Result",
    "Learning curves",
    "Errors of the particles held out",
    "Error by view direction",
    "Error by defocus",
    "Confidence and its calibration",
    "Views of the training set",
    "Particles as the network gets them",
    "Time and memory",
    "Settings",
]
# Added to a copy of the page: says how the browser laid it out, and what it fetched.
LOOK = """<script>addEventListener("load", () => {
  const place = one => one.getBoundingClientRect();
  const seen = {
    pictures: [...document.images].map(one => [one.complete, one.naturalWidth, place(one).width, one.alt]),
    fetched: performance.getEntriesByType("resource").map(one => one.name).filter(name => !name.startsWith("data:")),
    page: [document.documentElement.scrollWidth, innerWidth],
    table: [...document.querySelectorAll(".scroll")].map(one => [one.scrollWidth, one.clientWidth]),
    cut: [...document.querySelectorAll("h2, p, li, td, dd, img")].filter(one => one.checkVisibility())
      .filter(one => place(one).right > innerWidth + 1 || place(one).left < 0).length,
  };
  const told = document.createElement("pre");
  told.id = "seen";
  told.textContent = JSON.stringify(seen);
  document.body.append(told);
})</script>"""


@pytest.fixture(scope="module")
def browser():
    """Runs headless Chromium with a new profile, from which nothing can leave the machine, and gives what it says."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("not on this machine: chromium (tools/install_test_tools.sh installs it on Debian and Ubuntu)")

    def run(profile, address, *options):
        words = [program, "--headless", "--no-sandbox", *QUIET.split(), f"--user-data-dir={profile}", *options]
        words += [f"--proxy-server={NOBODY}", "--enable-logging=stderr", "--hide-scrollbars"]
        done = subprocess.run([*words, address], capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a small training of two half sets."""
    folder = tmp_path_factory.mktemp("run")
    particles = folder_of_particles(folder / "set")
    words = run_words(particles)(folder / "out", "--n_epochs", "1", config=["train.val_fraction=0.2"])
    training = TrainingProcess(words, folder / "log")
    assert training.ends() == 0, training.told()
    return folder / "out" / "version_0" / "report.html"


def looked_at(browser, folder, page, width=1300):
    """How a page was laid out, its DOM, and the browser's messages."""
    copy = folder / "report.html"
    copy.write_text(page.replace("</body>", LOOK + "</body>"), encoding="utf-8")
    dom, messages = browser(folder / "profile", copy.as_uri(), f"--window-size={width},900", "--dump-dom")
    return json.loads(html.unescape(re.search('<pre id="seen">(.*?)</pre>', dom)[1])), dom, messages


@pytest.mark.parametrize("width", [1300, 600])
def test_the_page_in_a_browser(browser, report, tmp_path, width):
    seen, dom, messages = looked_at(browser, tmp_path, report.read_text(encoding="utf-8"), width)
    assert re.findall("<h2>(.*?)</h2>", dom) == PARTS
    assert seen["fetched"] == [] and "CONSOLE" not in messages
    assert seen["page"] == [width, width] and seen["cut"] == 0
    assert all(inside <= outside for inside, outside in seen["table"]), "no table has to be scrolled"
    assert len(seen["pictures"]) == 12
    for complete, own_width, shown_width, words in seen["pictures"]:
        assert complete and own_width > 300 and words in PARTS
        assert shown_width > 300, "its letters can be read"


def test_what_is_wrong_with_a_page_is_seen(browser, report, tmp_path):
    """The other test could fail: a picture from elsewhere, an error of a script and a wide line are noticed."""
    wrong = "<img src='http://elsewhere.invalid/a.png'><script>nothing()</script><p style='width:3000px'>wide</p></body>"
    seen, _, messages = looked_at(browser, tmp_path, report.read_text(encoding="utf-8").replace("</body>", wrong))
    assert seen["fetched"] == ["http://elsewhere.invalid/a.png"] and "nothing is not defined" in messages
    assert seen["page"][0] > 3000 and seen["cut"] == 1 and not all(one[0] and one[1] for one in seen["pictures"])


def test_the_page_says_what_was_found(report):
    """Without a browser: figures of the run, and advice."""
    text = re.sub("<[^>]*>", " ", report.read_text(encoding="utf-8"))
    record = read_run(report.parent)
    for half in record.halves.values():
        assert f"{half.best['val_geo_degs']:.2f}°" in text and f"{half.n_train:,}" in text
    for words in ("Two networks, one for each half set", "1 epoch, in batches of 16 pictures", "2 augmented copies", "Under 5°"):
        assert words in text
    for words in ("Rule: ", "not enough for reliable poses", "points off on average", "Peak memory", "training steps", "finished"):
        assert words in text


def test_a_picture_of_the_page(browser, report, tmp_path):
    browser(tmp_path / "profile", report.as_uri(), "--window-size=1300,6000", f"--screenshot={tmp_path / 'page.png'}")
    image = pytest.importorskip("PIL.Image").open(tmp_path / "page.png").convert("L")
    assert image.size == (1300, 6000)
    rows = [image.crop((0, top, 1300, top + 500)).getextrema()[0] for top in range(0, 4500, 500)]
    assert max(rows) < 128, "each part of it has something dark on it"
