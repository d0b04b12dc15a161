r"""One spelling of an answer: what people write, in plain LaTeX.

Models write an answer with Markdown, dollars, fonts, colours, a full stop, or
in Unicode. None of that says anything of the answer: `plain` takes it away, and
changes no value.
"""

import re
import unicodedata

_CHARACTERS = {
  **dict.fromkeys('\u2212\u2010\u2011\ufe63', '-'),
  **dict.fromkeys('\u00b0\u00ba\u02da', r'^{\circ}'),
  **dict.fromkeys('\u00b7\u22c5\u2219\u2217', r'\cdot '),
  **dict.fromkeys('\u2044\u2215', '/'),
  **dict.fromkeys('\u2223\u2758', '|'),
  **dict.fromkeys('\u2018\u2019\u2032', "'"),
  **dict.fromkeys('\u201c\u201d', '"'),
  '\u00d7': r'\times ',
  '\u00f7': r'\div ',
  '\u00b1': r'\pm ',
  '\u2213': r'\mp ',
  '\u221a': r'\sqrt ',
  '\u221b': r'\sqrt[3] ',
  '\u221c': r'\sqrt[4] ',
  '\u221e': r'\infty ',
  '\u2264': r'\le ',
  '\u2a7d': r'\le ',
  '\u2265': r'\ge ',
  '\u2a7e': r'\ge ',
  '\u2260': r'\ne ',
  '\u2208': r'\in ',
  '\u222a': r'\cup ',
  '\u2229': r'\cap ',
  '\u2205': r'\emptyset ',
  '\u211d': r'\mathbb{R}',
  '\u2124': r'\mathbb{Z}',
  '\u2115': r'\mathbb{N}',
  '\u211a': r'\mathbb{Q}',
  '\u2026': r'\ldots ',
  '\u22ef': r'\cdots ',
  '\u27e8': r'\langle ',
  '\u27e9': r'\rangle ',
  '\u230a': r'\lfloor ',
  '\u230b': r'\rfloor ',
  '\u2308': r'\lceil ',
  '\u2309': r'\rceil ',
}
_SPACES = re.compile(
  r'\\(?:quad|qquad|enspace|thinspace|hfill|space)(?![a-zA-Z])'
  r'|\\[hv]space\*?\s*\{[^{}]*\}|[\u00a0\u2000-\u200a\u202f\u205f]|(?<!\\)\\(?=\s)'
)
_THIN = re.compile(r'(?<!\\)\\[,;:>!]|~')
_STYLE = re.compile(
  r'\\(?:display|text|script)style(?![a-zA-Z])'
  r'|\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|it|rm|sf|tt|'
  r'bfseries|boldmath|left|right|[bB]igg?[lrm]?)(?![a-zA-Z])'
  r'|\\(?:color|textcolor|colorbox|[hv]?phantom)\s*\{[^{}]*\}'
  r'|\\(?:mathbf|mathit|mathsf|mathtt|mathnormal|boldsymbol|bm|pmb|underline|'
  r'ensuremath|math|mathop|mathstrut|boxed|fbox)(?![a-zA-Z])'
)
_TEXT = r'\\(?:text(?:bf|it|normal|rm|sf|tt|sc)?|mbox|hbox|mathrm|operatorname)'
# Text that is a formula: a number, e, i or d; and letters as all of it.
_UNTEXT = re.compile(
  rf'{_TEXT}\s*\{{([^{{}}a-zA-Z]*|[^{{}}]*[0-9][^{{}}]*|\s*[eid]\s*)\}}'
  rf'|\A{_TEXT}\s*\{{(\W*[a-zA-Z](?:\W+[a-zA-Z])*\W*)\}}\Z'
)
TEXT = re.compile(_TEXT + r'\s*\{([^{}]*)\}')
_BARE = re.compile(
  r'(?<![a-zA-Z\\])(?:sqrt|frac|pi|theta|alpha|beta|infty)(?![a-zA-Z])'
)
_GROUPS = re.compile(
  r'(?<![0-9.,])[0-9]{1,3}(?:(?:,?\\[!,;: ]|\{,\}|~| )\s*[0-9]{3})+(?![0-9])'
)
_MIXED = re.compile(
  r'(?<![\w.^}\\])([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)(?![\w.^])'
)
_ENCLOSED = re.compile(
  r'(?s)(\*{1,3}|_{2}|`{1,3}|\${1,2}|\")(.+)\1|\\\((.*)\\\)|\\\[(.*)\\\]'
)
# Bold text and formulas in a text; 'x**2' is a power.
_PAIRS = (
  re.compile(r'(?<![\w)])\*\*(?=\S)([^*]+)(?<=\S)\*\*(?!\w)'),
  re.compile(r'(?<!\\)\$([^$]+)(?<!\\)\$'),
  re.compile(r'\\\(((?:[^\\]|\\[^)])*)\\\)'),
)
_LEAD = re.compile(
  r'(?i)(?:the\s+)?(?:(?:final|correct)\s+)?(?:answer|ans)(?:\s+is\b\s*:?|\s*:)\s*|=\s*'
)
_ROOT = re.compile(r'\\sqrt\s*(?:\[[^\]]*\]\s*)?')
_NUMBER = re.compile(r'[0-9]+(?:\.[0-9]+)?')
_WORDS = (
  (re.compile(r'\s*(?:\\text\s*\{\s*)?\bper\s?cent\b\s*\}?'), r'\\%'),
  (re.compile(r'(?<![a-zA-Z\\])infinity(?![a-zA-Z])'), r'\\infty '),
  (re.compile(r'<=(?!=)'), r'\\le '),
  (re.compile(r'>='), r'\\ge '),
  (re.compile(r'!='), r'\\ne '),
  (re.compile(r'\+/-'), r'\\pm '),
  (re.compile(r'(?<=[\w)])\*\*(?=[\w(-])'), '^'),
  (re.compile(r'\^\s*(-?[0-9]{2,})'), r'^{\1}'),
  (re.compile(r'\\[dtc]frac(?![a-zA-Z])'), r'\\frac'),
  (
    re.compile(r'\\(frac|binom)\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])'),
    r'\\\1{\2}{\3}',
  ),
  (re.compile(r'(?i)\b([ap])(?:\.\s?m\b\.?|m\b\.)'), r'\1m'),
  (re.compile(r'\{,\}'), ','),
)


def plain(text: str) -> str:
  """The answer without its dress, in ASCII where LaTeX has a word for it."""
  text = _SPACES.sub(' ', _unicode(text))
  text = re.sub(r',\s*\.{3,}', r', \\ldots ', text)
  text = _undressed(text)
  for pair in _PAIRS:
    text = pair.sub(r'\1', text)
  text = _undressed(text)
  text = _GROUPS.sub(lambda m: re.sub('[^0-9]', '', m[0]), text)
  text = _THIN.sub(lambda m: '' if m[0] == r'\!' else ' ', text)
  text = _UNTEXT.sub(r'\1\2', _STYLE.sub('', text))
  text = _BARE.sub(lambda m: '\\' + m[0], text)
  for pattern, replacement in _WORDS:
    text = pattern.sub(replacement, text)
  return _undressed(_MIXED.sub(_mixed, _roots(text)))


def _undressed(text: str) -> str:
  """Without what stands around the whole of it."""
  for _ in range(8):
    before = text
    text = re.sub(r'(?:\\+[,;:!]|[\s.,;:\\])+\Z', '', text).strip()
    text = _LEAD.sub('', text, count=1) if _LEAD.match(text) else text
    match = _ENCLOSED.fullmatch(text)
    if match:
      inner = next(part for part in match.groups()[1:] if part is not None)
      if not match[1] or match[1] not in inner.replace(r'\$', ''):
        text = inner
    elif _is_group(text):
      text = text[1:-1]
    if text == before:
      break
  return text


def _is_group(text: str) -> bool:
  """Whether it is '{...}', the first brace closed by the last."""
  return text.startswith('{') and closing(text) == len(text) - 1


def closing(text: str) -> int:
  """Where the bracket that a text begins with is closed, or -1."""
  opening = text[0]
  last = {'(': ')', '{': '}'}[opening]
  depth = 0
  for position, character in enumerate(text):
    depth += (character == opening) - (character == last)
    if not depth:
      return position
  return -1


def _unicode(text: str) -> str:
  if text.isascii():
    return text
  parts = ['']
  for character in text:
    part = character if character < '\x80' else _ascii(character)
    if part[:2] in ('^{', '_{') and parts[-1][:2] == part[:2]:
      parts[-1] = parts[-1][:-1] + part[2:]  # two digits of one exponent
    else:
      parts.append(part)
  return ''.join(parts)


def _ascii(character: str) -> str:
  if character in _CHARACTERS:
    return _CHARACTERS[character]
  kind, _, codes = unicodedata.decomposition(character).partition(' ')
  if kind in ('<super>', '<sub>', '<fraction>'):
    letters = ''.join(chr(int(code, 16)) for code in codes.split())
    if kind == '<fraction>':
      top, _, bottom = letters.partition('\u2044')
      return rf'\frac{{{top}}}{{{bottom}}}' if bottom else character
    if letters in '0123456789+-n':
      return f'{"^" if kind == "<super>" else "_"}{{{letters}}}'
  name = unicodedata.name(character, '').split()
  if name[:1] == ['GREEK'] and name[2:3] == ['LETTER'] and len(name) == 4:
    letter = name[3].lower().replace('lamda', 'lambda')
    return rf'\{letter if name[1] == "SMALL" else letter.capitalize()} '
  return character


def _mixed(match: re.Match) -> str:
  whole, top, bottom = match.groups()
  if int(top[:9]) >= int(bottom[:9]):
    return match[0]
  return rf'{whole}\frac{{{top}}}{{{bottom}}}'


def _roots(text: str) -> str:
  r"""'\sqrt(2)', '\sqrt 12' and '\sqrt[3] (x)' as '\sqrt{...}'."""
  for root in reversed(list(_ROOT.finditer(text))):
    rest, end = text[root.end() :], 0
    if rest.startswith('('):
      end = closing(rest) + 1
      inner = rest[1 : end - 1] if end else ''
    else:
      spaced = root[0][-1].isspace() and _NUMBER.match(rest)
      inner = spaced[0] if spaced else ''
      end = len(inner)
    if inner:
      text = f'{text[: root.end()].rstrip()}{{{inner}}}{rest[end:]}'
  return text
