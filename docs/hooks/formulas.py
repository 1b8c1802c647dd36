"""Formulas as MathML, made when the site is built: browsers draw it without a script and without a font of ours.

`$...$` and `$$...$$` hold LaTeX. Inline code that reads as a formula, as `x_t = alpha_t x_0 + sigma_t z`, is drawn as
well; it stays code where it cannot be read as one.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

GREEK = "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega".split()
FUNCTIONS = ("exp", "log", "min", "max", "sqrt", "grad", "det", "Cov", "cov", "std", "Enc", "Dec", "diag", "tr", "sum")
MARKED = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.DOTALL)
CODE = re.compile(r"(<pre\b.*?</pre>)|<code>([^<]*)</code>", re.DOTALL)
HALLMARK = re.compile(r"(?:\b(?:" + "|".join(GREEK) + r")_|\b[a-zA-Z]_[0tslyi]\b|\^|\|\||\w \| \w| ~ )")
NO_FORMULA = re.compile(
    r"""["'\[{;#]|\S/|/\S|\b\w+=\S|\.[a-z]|::|--|->|\b[a-z]{5,}\b(?<!alpha)(?<!sigma)(?<!gamma)(?<!theta)"""
)
TOKEN = re.compile(r"\|\||<=|>=|~=|[A-Za-z]+|\d+(?:\.\d+)?(?:e-?\d+)?|\s+|.")
SIGNS = {"||": r"\Vert ", "|": r"\mid ", "~": r"\sim ", "<=": r"\le ", ">=": r"\ge ", "*": r"\cdot ", "~=": r"\approx "}


def drawn(page: str) -> str:
    """A page of HTML with its formulas drawn."""
    page = MARKED.sub(lambda found: mathml(html.unescape(found[2]), block=found[1] == "div"), page)
    return CODE.sub(lambda found: found[0] if found[1] else _code(found[0], html.unescape(found[2])), page)


def mathml(latex: str, *, block: bool = False) -> str:
    """LaTeX as MathML."""
    return convert(latex, display="block" if block else "inline")


def _code(original: str, text: str) -> str:
    if not HALLMARK.search(text) or " " not in text or NO_FORMULA.search(text):
        return original
    try:
        return mathml(latex_of(text))
    except Exception:  # what cannot be read as a formula stays code
        return original


def latex_of(text: str) -> str:
    """LaTeX of a formula as docstrings write it.

    Example:
        >>> latex_of("x_t = alpha_t x_0")
        'x_{t} = \\\\alpha _{t} x_{0}'
    """
    tokens = TOKEN.findall(text)
    written: list[str] = []
    while tokens:
        token = tokens.pop(0)
        if token in "_^" and tokens:
            written.append(f"{token}{{{_script(tokens)}}}")
        else:
            written.append(_sign(token))
    return "".join(written)


def _script(tokens: list[str]) -> str:
    """What stands up or down: a word, a number, a sign with either, or a group in brackets."""
    token = tokens.pop(0)
    sign = token if token in "-+" and tokens else ""
    token = tokens.pop(0) if sign else token
    if token not in "({":
        return sign + _sign(token)
    depth, inside = 1, []
    while tokens and depth:
        inside.append(tokens.pop(0))
        depth += (inside[-1] in "({") - (inside[-1] in ")}")
    return sign + "".join(_sign(item) for item in inside[:-1])


def _sign(token: str) -> str:
    if token in SIGNS:
        return SIGNS[token]
    if token in GREEK or token == "sqrt":
        return rf"\{token} " if token != "sqrt" else r"\sqrt{\,} "
    if token == "grad":
        return r"\nabla "
    if token in FUNCTIONS:
        return rf"\mathrm{{{token}}} "
    if len(token) > 1 and token.isalpha():
        return rf"\mathrm{{{token}}}" if len(token) > 2 else token
    return rf"\{token}" if token in "{}%&#$" else token
