"""Pages in Markdown whose tables a benchmark fills in."""

import re
from collections.abc import Mapping, Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def fill_in(page: str, parts: Mapping[str, str]) -> str:
    """The page with its generated parts anew: what stands between `<!-- NAME -->` and `<!-- end -->`."""
    for name, text in parts.items():
        mark = re.escape(f"<!-- {name} -->")
        page, count = re.subn(
            rf"({mark}\n).*?(<!-- end -->)",
            lambda found, text=text: f"{found[1]}{text}{found[2]}",  # type: ignore[misc]
            page,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(f"the page has {count} places for {name!r}; it needs one")
    return page
