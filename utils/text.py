"""Text from elsewhere, as a sentence may show it."""


def one_line(text: str, longest: int) -> str:
    """Its words on one line: printable, and of `longest` characters at most before the dots that say that
    there were more."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    text = " ".join(text.split())
    return text if len(text) <= longest else text[:longest] + "..."
