import pytest

from dllm_jax.tasks import tags

GOOD = '<reasoning>\nr\n</reasoning>\n<answer>\na\n</answer>'


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('<answer> 3 </answer>', '3'),
    ('<answer>1</answer><answer>2</answer>', '2'),
    ('<answer><answer>3</answer></answer>', '3'),
    ('<answer>1</answer><answer>2', None),
    ('</answer>3<answer>', None),
    ('3', None),
    ('', None),
    ('<answer></answer>', ''),
  ],
)
def test_extract_answer(text, expected):
  assert tags.extract_answer(text) == expected


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    (GOOD, 'r'),
    ('<reasoning>r', 'r'),
    ('<reasoning>r<answer>a</answer>', 'r'),
    ('<answer>a</answer>', ''),
  ],
)
def test_reasoning_text(text, expected):
  assert tags.reasoning_text(text) == expected


@pytest.mark.parametrize(
  ('text', 'ours', 'd1'),
  [
    # d1 charges a completion without a last newline for its whole length.
    (GOOD, 0.5, 0.5 - 0.001 * len(GOOD) + 0.001),
    (GOOD + '\n', 0.5, 0.5),
    (GOOD + 'xyz', 0.494, 0.5 - 0.001 * (len(GOOD) + 3) - 0.002),
    (GOOD + '\nxyz', 0.494, 0.494),
    (GOOD + GOOD, 0.0, 0.0),
    ('<reasoning>\n', 0.125, 0.125),
    ('', 0.0, 0.0),
  ],
)
def test_xmlcount(text, ours, d1):
  assert tags.xmlcount(text) == pytest.approx(ours)
  assert tags.xmlcount(text, parity=True) == pytest.approx(d1)


@pytest.mark.parametrize(
  ('text', 'soft', 'strict', 'd1_soft', 'd1_strict'),
  [
    (GOOD, 0.5, 0.5, 0.0, 0.0),
    (GOOD + '\n', 0.5, 0.5, 0.0, 0.5),
    (GOOD + '\n\n', 0.5, 0.0, 0.0, 0.5),
    (GOOD.replace('r', 'r\nr', 1).replace('rr', 'r'), 0.0, 0.0, 0.0, 0.0),
    (GOOD.replace('\na\n', '\na\nb\n'), 0.5, 0.5, 0.0, 0.0),
    (GOOD.replace('\na\n', '\n<answer>\n'), 0.5, 0.0, 0.0, 0.0),
    ('x' + GOOD, 0.0, 0.0, 0.0, 0.0),
    ('<reasoning>r</reasoning> <answer>a</answer>', 0.5, 0.0, 0.5, 0.0),
    ('<reasoning>\n</reasoning>\n<answer>\n</answer>', 0.5, 0.0, 0.0, 0.0),
    ('<reasoning></reasoning><answer>', 0.0, 0.0, 0.0, 0.0),
  ],
)
def test_layout(text, soft, strict, d1_soft, d1_strict):
  assert tags.soft_format(text) == soft
  assert tags.strict_format(text) == strict
  assert tags.soft_format(text, parity=True) == d1_soft
  assert tags.strict_format(text, parity=True) == d1_strict


def test_completion_text_is_the_layout():
  assert tags.completion_text('r', 'a') == GOOD


def test_text_words_cover_the_text():
  text = 'Use  12 numbers.\n\nDone'
  assert tags.text_words(text) == (
    'Use',
    ' numbers.',
    '\n',
    'Done',
  )
