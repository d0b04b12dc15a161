"""What is one expression, and what is several claims."""

import json

import pytest

from dllm_jax.tasks import claims
from tests import timing


@pytest.mark.parametrize(
  ('text', 'balanced'),
  [
    ('', True),
    (r'\frac{1}{2}', True),
    (r'\{1, 2\}', True),
    ('[0, 1)', True),
    ('5} 4', False),
    ('5}{4}{3', False),
    (r'5}\text{ \{', False),
    (r'5\}\text{ {', False),
    ('{', False),
    ('5\\', False),
    ('5\\\\', True),
  ],
)
def test_is_balanced(text, balanced):
  assert claims.is_balanced(text) == balanced


JOINED = (
  r'\\ \lor \vee \land \wedge \to \rightarrow \Rightarrow \implies \iff '
  r'\mapsto \in \ni \notin \cup \cap \setminus \subset \equiv \sim \cong \mid '
  r'\parallel \perp \dots \colon \bmod \circ \ast \therefore \because \ll '
  r'\oplus \hspace{1cm} \uparrow \vdash \prec \sqcup \cr \par \quad \max \sum '
  r'\degree \Big \begin{x} \mathbb{R} \unknown '
  r'| & ~ @ # ? . -> => == =/= := // <> → ∪ ∨ • — … ° $ "'
).split()


@pytest.mark.parametrize('between', JOINED)
def test_two_numbers_with_something_between_them(between):
  assert not claims.is_one(f'4 {between} 5', '5')


@pytest.mark.parametrize(
  'text',
  [
    'the answer is 4. the answer is 5',
    'the answer is 5',
    '4. 5',
    '4.\n5',
    '4 .5',
    'x=4 x=5',
    r'4 \text{so} x = 5',
    r'\text{$4$} 5',
    r'\neg 5',
    '4 \u2003 5',
    '5} 4',
  ],
)
def test_several_claims(text):
  assert not claims.is_one(text, '5')


@pytest.mark.parametrize(
  ('text', 'gold'),
  [
    ('5', '5'),
    ('5.', '5'),
    ('-5', '\u22125'),
    (r'\frac{1}{2}', '0.5'),
    (r'x = \dfrac12', '0.5'),
    (r'\text{Area} = 5', '5'),
    (r'5 \text{ square inches}', '5'),
    ('12 square inches', '12'),
    (r'34\text{ sq. units}', '34'),
    (r'5~\text{cm}', '5'),
    (r'\$5.00', r'\$5'),
    (r'50\%', '50'),
    (r'90^\circ', '90'),
    (r'90^{\circ}', '90'),
    ('90\u00b0', '90'),
    (r'90\degree', '90'),
    (r'x \in [0, 1]', '[0,1]'),
    (r'\big(3, \frac{\pi}{2}\big)', r'(3,\pi/2)'),
    (r'\sin x + cos x + tan x', r'\sin x'),
    ('Friday', r'\text{Friday}'),
    # What the gold answer has, too.
    (r'(1,2) \cup (3,4)', r'(1,2)\cup(3,4)'),
    (
      r'\begin{pmatrix} 1 \\ 2 \end{pmatrix}',
      r'\begin{pmatrix}1\\2\end{pmatrix}',
    ),
    ('|x|', '|x|'),
    ('x=1, y=2', 'x=1,y=2'),
  ],
)
def test_one_expression(text, gold):
  assert claims.is_one(text, gold)


def test_gold_answers_are_expressions(shared_dir):
  path = shared_dir / 'data' / 'math' / 'math500_test.jsonl'
  golds = [json.loads(x)['answer'] for x in path.read_text().splitlines()]
  assert len(golds) == 500
  # In another layout, as a model might write it.
  assert [g for g in golds if not claims.is_one(rf'{g}\,', g)] == []


@pytest.mark.parametrize(
  'part', ['5\\text{}', '~ ', '. ', '\\text{', '\\big', '{}', '\\', '^{\\circ']
)
def test_time_is_bounded(part):
  text = part * (8000 // len(part))
  assert timing.seconds(lambda: claims.is_one(text, '5')) < 0.5
