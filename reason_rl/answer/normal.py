r"""Bring an answer into one spelling before it is compared: conservative rewriting of text, nothing is evaluated."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from reason_rl.answer.words import spoken

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
SUBSCRIPT_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
SYMBOLS = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{HYPHEN}": "-",
    "\N{MULTIPLICATION SIGN}": "\\times ",
    "\N{DIVISION SIGN}": "/",
    "\N{MIDDLE DOT}": "\\cdot ",
    "\N{DOT OPERATOR}": "\\cdot ",
    "\N{GREEK SMALL LETTER PI}": "\\pi ",
    "\N{GREEK SMALL LETTER THETA}": "\\theta ",
    "\N{GREEK SMALL LETTER ALPHA}": "\\alpha ",
    "\N{GREEK SMALL LETTER BETA}": "\\beta ",
    "\N{GREEK SMALL LETTER LAMDA}": "\\lambda ",
    "\N{INFINITY}": "\\infty ",
    "\N{LESS-THAN OR EQUAL TO}": "\\le ",
    "\N{GREATER-THAN OR EQUAL TO}": "\\ge ",
    "\N{NOT EQUAL TO}": "\\ne ",
    "\N{PLUS-MINUS SIGN}": "\\pm ",
    "\N{DEGREE SIGN}": "^\\circ ",
    "\N{EMPTY SET}": "\\emptyset ",
    "\N{ELEMENT OF}": "\\in ",
    "\N{UNION}": "\\cup ",
    "\N{INTERSECTION}": "\\cap ",
    "\N{DOUBLE-STRUCK CAPITAL R}": "\\mathbb{R}",
    "\N{ALMOST EQUAL TO}": "",
    "\N{FRACTION SLASH}": "/",
    "\N{GREEK CAPITAL LETTER OMEGA}": "\\Omega ",
    "\N{OHM SIGN}": "\\Omega ",
    "\N{SET MINUS}": "\\setminus ",
    "\N{LOGICAL OR}": "\\lor ",
    "\N{LOGICAL AND}": "\\land ",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{PRIME}": "'",
}
SQUARE_ROOT = re.compile("\N{SQUARE ROOT}\\s*(?:\\(([^()]*)\\)|([0-9.]+|[a-zA-Z]))")
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
DROPPED = re.compile(
    r"\\(?:therefore|left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|Biggl|Biggr|bigg|Bigg|big|Big|displaystyle|textstyle|limits|hfill|quad|"
    r"qquad|large|Large|LARGE|huge|Huge|small|normalsize|boldsymbol|bm|underline|emph|color\s*\{\w*\}|textcolor\s*\{\w*\})"
    r"(?![a-zA-Z])\.?"
)
DOLLARS = re.compile(r"(?<!\\)\$|\\\$|\\[()\[\]](?!\s*\d*\s*(?:em|pt))")
THIN_SPACE = re.compile(r"(?<!\\)\\[,;!: ]|~")
COMMA_AND_BACK = re.compile(r",\\!\s*")
FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
# \frac12, \frac1{2}, \frac{1}2, \frac\pi2, \sqrt2: braces around what LaTeX takes as an argument.
ARGUMENT = r"(\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}|\\[a-zA-Z]+|[^\s{}\\])"
BARE_FRACTION = re.compile(r"\\frac\s*" + ARGUMENT + r"\s*" + ARGUMENT)
BARE_ROOT = re.compile(r"\\sqrt\s*(\[[^\]]*\])?\s*([0-9a-zA-Z]|\\[a-zA-Z]+)(?!\w)?")
TEXT_COMMAND = r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|mathit|textnormal|operatorname|bf|rm)\s*\{"
TEXT = re.compile(TEXT_COMMAND + r"([^{}]*)\}")
TEXT_OR_BRACE = re.compile(TEXT_COMMAND + r"|[{}]")
WRAPPED = re.compile(r"^\s*(?:\*\*|__|`)(.*?)(?:\*\*|__|`)\s*$", re.DOTALL)
THOUSANDS = re.compile(r"(?<![\d.,(\[{])([1-9]\d{0,2})((?:(?:\{,\}|,)\d{3})+)(?!\d|,\d)")
SPACED_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)")
SCIENTIFIC = re.compile(r"(?<![\w.])([-+]?\d+(?:\.\d*)?|\.\d+)\s*[eE]\s*([-+]?\d{1,4})(?![\w.])")
TRAILING_POINT = re.compile(r"[\s.,;:]+$")
LEADING = re.compile(r"^\s*(?:\\approx|\\sim|=|:)\s*")
APPROXIMATELY = re.compile(
    r"\s*(?:\\approx\b.*|\(\s*(?:\\text\s*\{\s*)?(?:approximately|approx|about|since|because|as|rejecting|discarding|where|from)\b.*)$",
    re.DOTALL,
)
HOPE = re.compile(r"[.\s]*I\s*hope\s*it\s*is\s*correct[.\s]*$", re.IGNORECASE)
# Python's and plain text's spelling of what LaTeX has a command for.
PLAIN_COMMAND = re.compile(r"(?<![\\a-zA-Z])(dfrac|tfrac|frac|sqrt)(?=\s*\{)")
PLAIN_NAME = re.compile(r"(?<![\\a-zA-Z{])(pi|infty|infinity|oo)(?![a-zA-Z}])")
PLAIN_ROOT = re.compile(r"(?<![\\a-zA-Z])sqrt\(([^()]*)\)")
PLAIN_EXP = re.compile(r"(?<![\\a-zA-Z])exp\(([^()]*)\)")
PLAIN_FUNCTION = re.compile(
    r"(?<![\\a-zA-Z{])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln)(?=\s*[({\d\\^]|\s[a-zA-Z](?![a-zA-Z]))"
)
MONEY = re.compile(r"\\?\$\s*([\d.,{}\\! ]*\d)(?![\d$])\s*")
LETTER_TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)")
POINTED_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3}){2,}(?![\d.,])")
ELLIPSIS = re.compile(r"(?<=\d)\s*\.{3,}")
OUTWARD = re.compile(r"\][^\[\](){},]*,[^\[\](){},]*[\[\]]|[\[\]][^\[\](){},]*,[^\[\](){},]*\[")
ALL_REALS = re.compile(
    r"(?:\\text\s*\{\s*)?(?:(?:the )?set of )?(?:all )?real numbers\s*\}?|(?:\\text\s*\{\s*)?all reals\s*\}?",
    re.IGNORECASE,
)
TAKEN_OUT = re.compile(r"(\\mathbb\s*\{\s*R\s*\}|\\R)\s*(?:-|\\backslash|\\smallsetminus)\s*(?=\\\{)")
BUILT = re.compile(
    r"\\\{\s*([a-zA-Z])(?:\s*\\in\s*(?:\\mathbb\s*\{\s*R\s*\}|\\R))?\s*(?:\\mid|:|\|)\s*(\1[^|]*|[^|]*\1[^|]*)\\\}"
)
SPELLED_BASE = re.compile(r"\(?\s*(?:in\s+)?base[-\s}]*(\w+)\s*\)?$", re.IGNORECASE)
NAMED_BASE = re.compile(r"_\s*\{?\s*\\(?:text|mathrm)\s*\{\s*([a-z]+)\s*\}\s*\}?$")
BRACKETED_DIGITS = re.compile(r"\(\s*([\dA-Z]+)\s*\)\s*(?=_)")
ALIGNED = re.compile(r"\\begin\{((?:align(?:ed)?|equation|gather(?:ed)?|split)\*?)\}(.*)\\end\{\1\}", re.DOTALL)
ONE_CELL = re.compile(r"\\begin\{([pbv]?matrix|array)\}(?:\{\w*\})?([^&]*?)\\end\{\1\}")
UPRIGHT_LETTER = re.compile(r"\\(?:mathrm|text|rm)\s*\{\s*([a-zA-Z])\s*\}")
FORMULA = re.compile(r"[\d+*/^=<>\\-]")
ONE_TOKEN_A_ROW = re.compile(r"\\begin\{([pb]?matrix|array)\}(.*?)\\end\{\1\}", re.DOTALL)
NAMES = {"\\varnothing": "\\emptyset", "\\leq": "\\le", "\\geq": "\\ge", "\\neq": "\\ne", "\\lt": "<", "\\gt": ">"}
NAME = re.compile("|".join(re.escape(name) + "(?![a-zA-Z])" for name in NAMES))
TWICE_ESCAPED = re.compile(
    r"\\\\(?=(?:frac|dfrac|tfrac|sqrt|pi|infty|pm|cdot|times|text|le|ge|leq|geq|cup|in|circ)(?![a-z]))"
)


def plain_characters(text: str) -> str:
    r"""Return the text with LaTeX or ASCII for what has a character of its own.

    >>> plain_characters("−½ x² ≤ ２√3")
    '-\\frac{1}{2} x^{2} \\le 2\\sqrt{3}'
    """
    text = UNSEEN.sub("", text)
    text = SUPERSCRIPT_RUN.sub(lambda run: "^{" + run[0].translate(SUPERSCRIPTS) + "}", text)
    text = SUBSCRIPT_RUN.sub(lambda run: "_{" + run[0].translate(SUBSCRIPTS) + "}", text)
    text = SQUARE_ROOT.sub(lambda root: "\\sqrt{" + (root[1] or root[2] or "") + "}", text)
    text = "".join(_spelled(character) for character in text)
    return re.sub(r" +", " ", text)


def _spelled(character: str) -> str:
    if character.isascii():
        return character
    if character in SYMBOLS:
        return SYMBOLS[character]
    name = unicodedata.name(character, "")
    if name.startswith("VULGAR FRACTION"):
        top, _, bottom = unicodedata.normalize("NFKC", character).partition("\N{FRACTION SLASH}")
        return f"\\frac{{{top}}}{{{bottom}}}"
    return " " if character.isspace() else unicodedata.normalize("NFKC", character)


def normal(text: str) -> str:
    r"""Return an answer in one spelling: characters, spacing commands, fractions, thousands, powers of ten.

    >>> normal(r"\dfrac12"), normal("1{,}234"), normal("7."), normal("6.4e16")
    ('\\frac{1}{2}', '1234', '7', '6.4\\times 10^{16}')
    """
    text = plain_characters(text).strip()
    while (inner := WRAPPED.match(text)) is not None:
        text = inner[1].strip()
    text = HOPE.sub("", text)
    if (money := MONEY.fullmatch(text)) is not None:
        text = money[1] + " dollars"
    text = TWICE_ESCAPED.sub(r"\\", text)
    text = PLAIN_COMMAND.sub(r"\\\1", text)
    text = PLAIN_ROOT.sub(r"\\sqrt{\1}", text)
    text = PLAIN_EXP.sub(r"e^{\1}", text)
    text = PLAIN_NAME.sub(lambda found: "\\pi " if found[1] == "pi" else "\\infty ", text)
    text = PLAIN_FUNCTION.sub(r"\\\1", text)
    text = LETTER_TIMES.sub(r" \\times ", text)
    text = re.sub(r"\*\*", "^", text)
    text = re.sub(r"(?<=[\w)}])\s*\*\s*(?=[\w({\\])", r" \\cdot ", text)
    text = DROPPED.sub("", text)
    text = DOLLARS.sub("", text)
    text = COMMA_AND_BACK.sub(",", text)
    text = THOUSANDS.sub(lambda found: found[1] + re.sub(r"\D", "", found[2]), text)
    text = THIN_SPACE.sub(" ", text)
    text = re.sub(r"(?<=\d)'(?=\d{3}(?!\d))", "", text)
    text = POINTED_THOUSANDS.sub(lambda found: found[0].replace(".", ""), text)
    text = SPACED_THOUSANDS.sub(lambda found: found[0].replace(" ", ""), text)
    text = FRACTIONS.sub(r"\\frac", text)
    text = BARE_FRACTION.sub(lambda found: "\\frac" + _braced(found[1]) + _braced(found[2]), text)
    text = BARE_ROOT.sub(lambda found: "\\sqrt" + (found[1] or "") + _braced(found[2]), text)
    text = SCIENTIFIC.sub(r"\1\\times 10^{\2}", text)
    text = NAME.sub(lambda found: NAMES[found[0]], text)
    text = UPRIGHT_LETTER.sub(r"\1", text)
    text = re.sub(r"\\langle\s*(.*?)\s*\\rangle", r"(\1)", text)
    text = re.sub(r"\+\s*-", "-", text)
    text = APPROXIMATELY.sub("", text) if not APPROXIMATELY.match(text) else text
    text = LEADING.sub("", text)
    text = TRAILING_POINT.sub("", ELLIPSIS.sub(r"\\ldots", text))
    text = re.sub(r"(?<!\\)\\$", "", text)
    return unwrapped(balanced(_rephrased(" ".join(text.split()))))


def _rephrased(text: str) -> str:
    r"""Return sets, bases and single cells said another way in the usual one.

    >>> _rephrased("]0,1["), _rephrased(r"\{x \mid x>2\}"), _rephrased("(101)_2"), _rephrased("all real numbers")
    ('(0,1)', 'x>2', '101_2', '\\mathbb{R}')
    """
    if (aligned := ALIGNED.fullmatch(text)) is not None and "\\\\" not in aligned[2]:
        text = aligned[2].replace("&", "").strip()
    if OUTWARD.fullmatch(text):
        text = ("(" if text[0] == "]" else text[0]) + text[1:-1] + (")" if text[-1] == "[" else text[-1])
    if ALL_REALS.fullmatch(text):
        return "\\mathbb{R}"
    text = TAKEN_OUT.sub(r"\\mathbb{R}\\setminus", text)
    if (built := BUILT.fullmatch(text)) is not None:
        text = built[2].strip()
    if (cell := ONE_CELL.fullmatch(text)) is not None and "\\\\" not in cell[2].strip().removesuffix("\\\\"):
        text = cell[2].strip().removesuffix("\\\\").strip()
    for pattern in (SPELLED_BASE, NAMED_BASE):
        if (base := pattern.search(text)) is not None and base.start() > 0:
            value = int(base[1]) if re.fullmatch("[0-9]{1,2}", base[1]) else spoken(base[1])
            head = re.sub(r"[\s,]*(?:\\text\s*\{\s*)?$", "", text[: base.start()])
            text = text if value is None else f"{head}_{{{value}}}"
    return BRACKETED_DIGITS.sub(r"\1", text) if re.fullmatch(r"\([^()]*\)_\S+", text) else text


def unwrapped(text: str) -> str:
    r"""Return the text without round brackets around all of it, unless they hold a list.

    >>> unwrapped("((5))"), unwrapped("(1,2)"), unwrapped("(a)(b)")
    ('5', '(1,2)', '(a)(b)')
    """
    depth = min(len(text) - len(text.lstrip("(")), len(text) - len(text.rstrip(")")))
    inner = text[depth : len(text) - depth]
    if depth and not set("(),;") & set(inner):
        return inner.strip()
    return text[1:-1].strip() if re.fullmatch(r"\{[^{},;\\]*\}", text) else text


def balanced(text: str) -> str:
    r"""Return the text with missing closing brackets added and closing ones that nothing opened removed.

    >>> balanced(r"\frac{1}{2"), balanced("5}"), balanced("[0,1)")
    ('\\frac{1}{2}', '5', '[0,1)')
    """
    opened, kept = [], []
    for part in re.findall(r"\\[{}]|.", text):
        if part in "({[":
            opened.append(part)
        elif part == "}":
            if "{" not in opened:
                continue
            while opened.pop() != "{":
                pass
        elif part in ")]" and opened and opened[-1] in "([":
            opened.pop()
        kept.append(part)
    return "".join(kept) + "".join({"(": ")", "{": "}", "[": "]"}[part] for part in reversed(opened))


def one_line(text: str) -> str:
    r"""Return a matrix whose rows are no rows but the pieces of one formula, as some models print it, in one line.

    >>> one_line(r"\begin{matrix} 8 \\ \times \\ \sqrt{ \\ 10 \\ } \end{matrix}")
    '8 \\times \\sqrt{ 10 }'
    """
    return ONE_TOKEN_A_ROW.sub(lambda found: _joined(re.sub(r"\\\\|&", " ", found[2])), text)


def _joined(pieces: str) -> str:
    return re.sub(r"(?<=\d) (?=\d)", "", " ".join(pieces.split()))


def _braced(argument: str) -> str:
    return argument if argument.startswith("{") else "{" + argument + "}"


def without_text(text: str) -> str:
    r"""Return the text with ``\text{...}`` and its like replaced by what they hold.

    >>> without_text(r"5 \text{ cm}")
    '5  cm'
    """
    pieces: list[str] = []
    opened: list[_Brace] = []
    done = 0
    for found in TEXT_OR_BRACE.finditer(text):
        pieces += [text[done : found.start()], found[0]]
        done = found.end()
        if found[0] != "}":
            opened.append(_Brace(len(pieces) - 1, found[0] != "{"))
        elif opened:
            brace = opened.pop()
            if brace.of_text and not brace.holds_braces:
                pieces[brace.piece] = pieces[-1] = ""
            elif opened:
                opened[-1].holds_braces = True
    return "".join([*pieces, text[done:]])


@dataclass
class _Brace:
    """An open brace: which piece it is, whether a text command opened it, whether braces are left in it."""

    piece: int
    of_text: bool
    holds_braces: bool = False


def squeezed(text: str) -> str:
    r"""Return what two spellings have in common: no spaces, no text commands, lower case where there are only words.

    >>> squeezed(r"\text{No solution}")
    'nosolution'
    """
    text = re.sub(r"(?<=\d)\s+(?=\d)", "|", without_text(text))
    text = re.sub(r"([\^_])\{([\w.]+)\}(?!\w)", r"\1\2", re.sub(r"\s+", "", text))
    return text if FORMULA.search(text) else text.lower()
