"""Text of strangers as a terminal may show it."""


def printable(text: str) -> str:
    r"""Return a text without what steers a terminal: names of files, packs and studies are those of strangers.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)
