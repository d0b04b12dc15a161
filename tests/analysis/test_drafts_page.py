"""Drafts in a browser: what became of each, round by round, and the charts."""

import pytest

from dllm_jax.analysis import report
from tests import browser as browser_lib
from tests.analysis import made_run

GREEDY = made_run.drafted(
  'greedy', [None] * 4, commit_step=[0, 1, 2, 3], num_steps=4
)
# Round 1 accepts ' 3' and corrects ' -'; round 2 adds the end to ' 4'.
DRAFT = made_run.drafted(
  'draft int8, m = 4', [' 3', made_run.ATTACK, ' 4', None]
)
# A draft of the end, refused; an accepted end; nothing is behind it.
FRACTAL = made_run.drafted('fractal int8, m = 4', [' 3', ' +', '', ''])
PLAIN = [
  made_run.sample('base', ['x', 'y'], [1, 0], 2),
  made_run.sample('final', ['z', 'w'], [0, 0], 1),
]


@pytest.fixture(scope='module')
def browser():
  with browser_lib.open_browser() as found:
    yield found


@pytest.fixture
def page(tmp_path):
  directory = made_run.make(tmp_path / 'run', method='sft')
  made_run.speculation(directory)
  row = made_run.problem('drafted', [GREEDY, DRAFT, FRACTAL])
  made_run.problems(directory, [row])
  return report.write(directory)


CELLS = """
  return [...document.querySelectorAll('.panel')].map((panel) =>
    [...panel.querySelectorAll('.cell')].map((cell) =>
      [cell.className, cell.textContent]));
"""
READOUT = """
  return [...document.querySelectorAll('.panel')].map((panel) =>
    Object.fromEntries([...panel.querySelectorAll('.readout div')].map(
      (item) => [item.firstChild.textContent, item.lastChild.textContent])));
"""
KEY = """
  return [...document.querySelectorAll('.key > span')]
    .filter((item) => item.offsetWidth)
    .map((item) => item.textContent.trim());
"""
TITLES = """
  return [...document.querySelectorAll('.panel')].map((panel) =>
    [...panel.querySelectorAll('.cell')].map((cell) => cell.title));
"""
PLAIN_KEY = ['confidence 01', 'undecided', 'just committed', 'after the end']


def load(browser, path, width=1280):
  browser.resize(width)
  browser.log('browser')
  browser.open(path)


def test_every_round_shows_what_became_of_the_drafts(browser, page):
  load(browser, page)
  greedy, draft, fractal = browser.run(CELLS)
  assert [kind for kind, _ in greedy] == ['cell own'] * 3 + ['cell new own']
  assert draft == [
    ['cell accepted', '3'],
    ['cell corrected', made_run.ATTACK + '+'],
    ['cell new accepted', '4'],
    ['cell new own', 'end'],
  ]
  assert fractal[2:] == [
    ['cell new corrected', 'end4'],
    ['cell new accepted', 'end'],
  ]
  struck = "return document.querySelector('.canvas del').textContent"
  assert browser.run(struck) == made_run.ATTACK
  assert browser.run('return window.attacked === undefined')
  browser.click('[data-do=previous]')
  browser.click('[data-do=previous]')
  browser.click('[data-do=previous]')
  _, draft, fractal = browser.run(CELLS)
  assert draft[0] == ['cell new accepted', '3']
  assert draft[2:] == [['cell masked', '']] * 2
  assert browser.log('browser') == []


def test_the_readout_counts_accepted_drafts_of_the_round(browser, page):
  load(browser, page)
  greedy, draft, fractal = browser.run(READOUT)
  assert 'reward' not in draft  # there are none
  assert greedy['accepted'] == '0' and greedy['round'] == '4/4'
  assert (draft['tokens'], draft['accepted']) == ('2', '1')
  assert draft['per round'] == '2.0' and fractal['round'] == '2/2'
  browser.click('[data-do=first]')
  browser.click('[data-do=next]')
  assert [r['accepted'] for r in browser.run(READOUT)] == ['0', '1', '2']


def test_a_title_names_the_rejected_draft(browser, page):
  load(browser, page)
  _, draft, fractal = browser.run(TITLES)
  assert draft[0].startswith('" 3", committed by round 1, an accepted draft, ')
  assert 'instead of the draft "</script><img' in draft[1]
  assert ", the model's own, confidence" in draft[3]
  browser.click('[data-do=first]')
  assert browser.run(TITLES)[1] == ['undecided'] * 4


def test_headings_and_key_are_those_of_drafts(browser, page):
  load(browser, page)
  headings = browser.run(
    "return [...document.querySelectorAll('h2, .panel h3')]"
    '.map((heading) => heading.textContent)'
  )
  assert 'Drafts, round by round' in headings
  assert {'greedy', 'fractal int8, m = 4'} <= set(headings)
  assert 'Denoising' not in browser.run(
    "return document.querySelector('#replay').outerHTML"
  )
  assert browser.run(KEY) == [
    'accepted draft',
    'x correction of a rejected draft',
    "the model's own",
    'undecided',
    'just committed',
    'after the end',
  ]


def test_the_key_follows_the_problem(browser, tmp_path):
  directory = made_run.make(tmp_path / 'run')
  made_run.problems(
    directory,
    [
      made_run.problem('fixed', PLAIN),
      made_run.problem('drafted', [DRAFT, FRACTAL]),
    ],
  )
  load(browser, report.write(directory))
  heading = "return document.querySelector('#replay h2').textContent"
  assert browser.run(heading) == 'Denoising, step by step'
  assert browser.run(KEY) == PLAIN_KEY
  browser.click('[data-do=next-problem]')
  assert 'accepted draft' in browser.run(KEY)
  browser.click('[data-do=next-problem]')
  assert browser.run(KEY) == PLAIN_KEY


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_the_three_are_told_apart_and_can_be_read(browser, page, scheme):
  browser.prefer(prefers_color_scheme=scheme)
  load(browser, page)
  browser.run("document.body.style.setProperty('transition', 'none')")
  colours = browser.run("""
    const number = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
    return ['accepted', 'corrected', 'own'].map((name) => {
      const style = getComputedStyle(
        document.querySelector(`.canvas .cell.${name}`));
      return [number(style.backgroundColor), number(style.color)];
    });
  """)
  browser.prefer()
  assert len({tuple(ground) for ground, _ in colours}) == 3
  for ground, ink in colours:
    low, high = sorted([luminance(ground), luminance(ink)])
    assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG AA


def luminance(rgb):
  """Relative luminance of WCAG, of 0..255."""
  linear = [
    c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
    for c in (value / 255 for value in rgb)
  ]
  return sum(
    w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
  )


@pytest.mark.parametrize('width', [390, 1280])
def test_the_charts_are_drawn_and_nothing_overflows(browser, page, width):
  load(browser, page, width)
  labels = browser.run("""
    return [...document.querySelectorAll('[data-section^=speculation] svg')]
      .map((chart) => chart.getAttribute('aria-label') || '')
      .filter((label) => label);
  """)
  assert labels[0].startswith('Tokens a round, int8 over m: draft from 1.625')
  assert 'law of fractal from 2.5 to 2.75' in labels[0]
  assert labels[2].startswith('Which decoder wins at which cost')
  size = browser.run(
    'return [document.documentElement.scrollWidth, innerWidth]'
  )
  assert size == [width, width]
  assert browser.log('browser') == []
