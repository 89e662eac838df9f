"""Pieces of reports: pages that hold all they show, with no scripts and nothing that they would fetch."""

import base64
import html
from typing import Any, List, Sequence, Tuple

from cryopares_core.plots.figures import png_bytes
from cryopares_core.plots.style import CSS

NO_WORDS = 'alt=""'
# Of figures, on the page: narrower ones go below each other.
PX_PER_INCH, LEAST_PX_PER_INCH = 96, 66


def page_html(title: str, path: str, facts: Sequence[Tuple[str, Any]], sections: Sequence[Tuple[str, str]]) -> str:
    """A whole page.

    Parameters
    ----------
    path : what it is about, under the title
    facts : names and values that stand at the top
    sections : titles and their HTML; those without content are left out
    """
    shown = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in facts)
    header = f"<header><h1>{html.escape(title)}</h1><p class=path>{html.escape(path)}</p><dl>{shown}</dl></header>"
    body = "".join(_section(html.escape(name), content) for name, content in sections if content)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{CSS}</style></head>\n<body>{header}\n{body}</body></html>\n'


def _section(title: str, content: str) -> str:
    """Its pictures are called by its title, for those who cannot see them."""
    named = content.replace(NO_WORDS, f'alt="{title}"')
    return f"<section><h2>{title}</h2>{named}</section>\n"


def figure_html(figure: Any, note: str = "") -> str:
    """A figure as part of a page, with a note below it."""
    return figures_html([figure], note)


def figures_html(figures: Sequence[Any], note: str = "") -> str:
    """Figures side by side where the page is wide enough, else below each other, with a note."""
    pictures = "".join(picture_html(png_bytes(figure), figure.get_figwidth()) for figure in figures)
    below = f"<p class=note>{html.escape(note)}</p>" if note else ""
    return f"<div class=figures>{pictures}</div>{below}"


def picture_html(content: bytes, width_inches: float) -> str:
    """A picture as part of a page.

    Parameters
    ----------
    content : of a PNG file
    width_inches : of the figure, whose letters are then as large as those of others
    """
    coded = base64.b64encode(content).decode("ascii")
    size = f"max-width:{PX_PER_INCH * width_inches:.0f}px; flex-basis:{LEAST_PX_PER_INCH * width_inches:.0f}px"
    return f'<img {NO_WORDS} style="{size}" src="data:image/png;base64,{coded}">'


def table_html(headings: Sequence[str], rows: Sequence[List[Any]], kind: str = "numbers") -> str:
    """A table of numbers, whose first column names the rows, or of another kind in the style sheet."""
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    lines = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class=scroll><table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
