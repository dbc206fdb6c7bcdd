"""The metadata is in setup.cfg; only the text of the package index is made here, from the README."""

import re
from pathlib import Path

from setuptools import setup


def without_relative_links(text: str) -> str:
    """Return Markdown in which links to files of the source distribution are plain text, without their pictures."""

    def plain(link: "re.Match[str]") -> str:
        label, path = link[1], link[2].partition("#")[0]
        return label if label.strip("`") == path else f"{label} ({path})"

    text = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]+\)\n*", "", text)
    return re.sub(r"\[([^]]+)\]\((?!https?:)([^)]+)\)", plain, text)


if __name__ == "__main__":
    setup(
        long_description=without_relative_links(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
